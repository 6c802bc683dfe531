"""Greedy answers, and texts that a model draws by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import by_length
from gdo_cli.lm.tokens import Encoded, Encoder, Ends


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


BATCH = 32  # texts that are drawn at a time


@torch.no_grad()
def sample_texts(lm: AnswerLM, n: int, max_tokens: int, temperature: float, seed: int) -> list[Encoded]:
    """Return texts that the model draws token by token from its whole distribution, the same for a seed.

    Each begins with the beginning of sequence (the end, for models without one) and ends with the end of
    sequence, or where it is cut. Torch's generators stay as they are.
    """
    config, generation = lm.model.config.get_text_config(), lm.model.generation_config
    eos = [i for i in (config.eos_token_id, getattr(generation, "eos_token_id", None)) if i is not None]
    ends = {int(i) for i in (eos[-1] if isinstance(eos[-1], (list, tuple)) else eos)} if eos else set()
    start = config.bos_token_id if config.bos_token_id is not None else min(ends)
    was_training = lm.training
    lm.eval()
    found: list[Encoded] = []
    devices = [lm.device] if lm.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), lm.autocast(), _plain_generation(lm.model):
        torch.manual_seed(seed)
        while len(found) < n:
            rows = torch.full((min(BATCH, n - len(found)), 1), int(start), device=lm.device)
            out = lm.model.generate(
                input_ids=rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=max_tokens,
                do_sample=True,
                top_k=0,
                temperature=temperature,
                eos_token_id=sorted(ends) or None,
                pad_token_id=min(ends, default=int(start)),
                synced_gpus=False,
            )
            found += [Encoded([int(start)], _up_to_end(ids[1:], ends)) for ids in out.tolist()]
    lm.train(was_training)
    return [text for text in found if text.continuation]


def _up_to_end(ids: list[int], ends: set[int]) -> list[int]:
    last = next((place for place, i in enumerate(ids) if i in ends), len(ids))
    return ids[: last + 1]


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
