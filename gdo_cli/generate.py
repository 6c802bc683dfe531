"""``gdo generate``: what a run's model answers, beside what the base model answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gdo_cli.config import load_run
from gdo_cli.device import compute_dtype, hold_weights, pick_device
from gdo_cli.experiment import end_ids
from gdo_cli.rebuild import rebuild
from gdo_cli.results import RunResult
from gdo_cli.scoring import AnswerLM, generate
from gdo_cli.tokens import Encoder, Query
from gdo_cli.weights import load_trained


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
