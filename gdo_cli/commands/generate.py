"""``gdo generate``: what a run's model answers, beside what the base model answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gdo_cli.config.build import load_run
from gdo_cli.experiment.reopen import rebuild
from gdo_cli.experiment.weights import load_trained
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.device import compute_dtype, hold_weights, pick_device
from gdo_cli.lm.generation import generate
from gdo_cli.lm.tokens import Encoder, Query, end_ids
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
    """Greedy completions of every prompt, up to the end of sequence."""
    config = rebuild(run, config_dir, overrides) if run else load_run(overrides, config_dir)
    loaded = config.model.load()
    encoder = Encoder.of(loaded.tokenizer, end_ids(loaded.model))
    device = pick_device()
    dtype = compute_dtype(config.train.precision, device)
    contexts = [encoder(Query(prompt, "")).context for prompt in prompts]

    def answers(model: torch.nn.Module) -> list[str]:
        hold_weights(model, dtype)  # before freezing: what was trained stays in fp32, as it was measured
        model.requires_grad_(False)
        lm = AnswerLM(model.to(device), dtype)
        return generate(lm, encoder, contexts, encoder.stop_ids, max_new_tokens, token_budget=8192)

    base = answers(loaded.model)
    tuned = answers(load_trained(loaded.model, config.method, run)) if run else [None] * len(prompts)
    return [Completion(*row) for row in zip(prompts, base, tuned, strict=True)]
