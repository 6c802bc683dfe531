"""Greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import by_length
from gdo_cli.lm.tokens import Encoder, Ends


@torch.no_grad()
def generate(
    lm: AnswerLM,
    encoder: Encoder,
    contexts: Sequence[list[int]],
    ends: Ends,
    max_new_tokens: int,
    token_budget: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """Return greedy answers in text, each up to what ends it.

    By the likeliest token alone: what the model's own generation settings add to that (a penalty on
    repetition, say) is left out, as in one-pass exact match.
    """
    results: dict[int, str] = {}
    pad_id = encoder.eos_id
    for batch in by_length([len(c) + max_new_tokens for c in contexts], token_budget):
        width = max(len(contexts[i]) for i in batch)
        rows = [[pad_id] * (width - len(contexts[i])) + contexts[i] for i in batch]
        mask = [[0] * (width - len(contexts[i])) + [1] * len(contexts[i]) for i in batch]
        with lm.autocast(), _plain_generation(lm.model):
            out = lm.model.generate(
                input_ids=torch.tensor(rows, device=lm.device),
                attention_mask=torch.tensor(mask, device=lm.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(ends.tokens),
                pad_token_id=pad_id,
                synced_gpus=False,  # other processes wait; they do not generate
            )
        for index, ids in zip(batch, out[:, width:].tolist(), strict=True):
            results[index] = ends.parse(ids)
        advance(len(batch))
    return [results[i] for i in range(len(contexts))]


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
