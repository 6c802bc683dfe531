"""``gdo generate``: what a run's model answers, beside what the base model answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gdo_cli.config.build import load_run
from gdo_cli.experiment.reopen import Opened, reopen
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.generation import generate
from gdo_cli.lm.tokens import Query
from gdo_cli.runs.record import RunResult


@dataclass(frozen=True)
class Completion:
    """A prompt and its greedy completions; ``tuned`` is None where there is no run."""

    prompt: str
    base: str
    tuned: str | None


@torch.no_grad()
def complete(
    prompts: list[str],
    run: RunResult | None,
    overrides: list[str],
    max_new_tokens: int,
    config_dir: Path | None,
) -> list[Completion]:
    """Return greedy completions of every prompt, up to the end of sequence."""
    opened = reopen(run, config_dir, overrides) if run else Opened(load_run(overrides, config_dir))
    encoder = opened.encoder
    contexts = [encoder(Query(prompt, "", control_tokens=True)).context for prompt in prompts]

    def answers(lm: AnswerLM) -> list[str]:
        return generate(lm, encoder, contexts, encoder.stop_ids, max_new_tokens, token_budget=8192)

    base = answers(opened.base())
    tuned = answers(opened.tuned()) if run else [None] * len(prompts)
    return [Completion(*row) for row in zip(prompts, base, tuned, strict=True)]
