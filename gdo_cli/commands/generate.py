"""``gdo generate``: what a run's model answers, beside what the base model answers."""

from __future__ import annotations

from pathlib import Path

import torch

from gdo_cli.config.build import load_run, rebuild
from gdo_cli.experiment.reopen import Opened
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.generation import generate
from gdo_cli.lm.markup import Markup
from gdo_cli.lm.tokens import Encoded, Query
from gdo_cli.runs.record import RunResult


@torch.no_grad()
def complete(
    prompts: list[str],
    run: RunResult | None,
    overrides: list[str],
    max_new_tokens: int,
    config_dir: Path | None,
) -> list[dict[str, str]]:
    """Return greedy completions of every prompt, up to the end of sequence: ``prompt``, ``base``, and of a
    run ``tuned``."""
    config = rebuild(run, config_dir, overrides) if run else load_run(overrides, config_dir)
    opened = Opened(config, run, overrides)
    encoder = opened.encoder
    contexts = [encoder(Query(Markup(prompt), "")).context for prompt in prompts]

    for prompt, ids in zip(prompts, contexts, strict=True):
        opened.require_fit([Encoded(ids, [])], f"the prompt {prompt[:40]!r} with its answer", max_new_tokens)

    def answers(lm: AnswerLM) -> list[str]:
        texts = generate(lm, encoder, contexts, encoder.sequence_ends, max_new_tokens, token_budget=8192)
        return [text.strip() for text in texts]

    columns = {"prompt": prompts, "base": answers(opened.base())}
    if run:
        columns["tuned"] = answers(opened.tuned())
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
