"""Sequences of different lengths one behind the other, without padding between them.

A third of a batch of SciTail's 16 examples is padding (844 of 1,246 tokens are not). Where only
attention looks across tokens, the batch can go through the decoder as one row of all its tokens, if
attention runs on each sequence by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

_NAME = "gdo_packed"
# Up to this many tokens, keeping a sequence's attention weights for backward costs little memory.
SHORT = 128


def can_pack(model: PreTrainedModel) -> bool:
    """Whether packing pays and the model's attention can be exchanged.

    On a GPU a kernel for every sequence costs more than the padding, which is computed for nothing but
    all at once.
    """
    decoder = model.get_decoder()
    return (
        next(model.parameters()).device.type == "cpu"
        and bool(getattr(decoder, "_supports_attention_backend", False))
        and decoder.config._attn_implementation == "sdpa"
    )


def run_packed(
    decoder: Any, segments: Sequence[list[int]], parents: Sequence[int], device: torch.device
) -> Tensor:
    """Last hidden states of token sequences one behind the other, (ΣT, D).

    Args:
        parents: for each segment the one that it goes on from, which stands before it and has no
            parent itself; -1 for none.
    """
    lengths = [len(segment) for segment in segments]
    before = [lengths[p] if p >= 0 else 0 for p in parents]
    ids = [token for segment in segments for token in segment]
    places = [start + t for start, n in zip(before, lengths, strict=True) for t in range(n)]
    with _attending(decoder.config, _NAME):
        hidden: Tensor = decoder(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([places], device=device),
            use_cache=False,
            segment_lengths=tuple(lengths),
            segment_parents=tuple(parents),
        )[0]
    return hidden[0]


def packed_places(positions_N: Tensor, width: int, lengths: Sequence[int]) -> Tensor:
    """Where the flat positions b·T + t of a padded batch stand in the packed one."""
    starts = torch.tensor([0, *lengths[:-1]], device=positions_N.device).cumsum(0)
    return starts[positions_N // width] + positions_N % width


def attention_of_forward(model: PreTrainedModel) -> tuple[AbstractContextManager[None], ...]:
    """For a checkpointed layer: what to run it in, and what to run it in again for backward, when the
    model's own attention is back in its place (``context_fn`` of ``torch.utils.checkpoint``)."""
    config = model.get_decoder().config
    return nullcontext(), _attending(config, config._attn_implementation)


@contextmanager
def _attending(config: Any, implementation: str) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


def _attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    segment_lengths: tuple[int, ...],
    segment_parents: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each segment on its parent and itself: (1, H, ΣT, d) → (1, ΣT, H, d)."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    fused = partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=scaling, enable_gqa=True)
    queries, keys, values = (x.split(segment_lengths, dim=2) for x in (query, key, value))
    outputs = []
    for q, k, v, parent in zip(queries, keys, values, segment_parents, strict=True):
        if parent >= 0:
            k, v = torch.cat([keys[parent], k], dim=2), torch.cat([values[parent], v], dim=2)
        windowed = sliding_window is not None and k.shape[2] > sliding_window
        if k.shape[2] <= SHORT and not windowed and not dropout:
            outputs.append(_short_attention(q, k, v, scaling))
        elif windowed or parent >= 0:
            mask = _visible(q.shape[2], k.shape[2], sliding_window if windowed else None, q.device)
            outputs.append(fused(q, k, v, mask))
        else:
            outputs.append(fused(q, k, v, is_causal=True))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _short_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention of the last T of S places by plain products: (1, H, T, d) → (1, H, T, d).

    The backward pass of torch's fused attention on a CPU takes nearly three times as long here. The
    query heads that share a key head stand below each other, so that one product serves them all.
    """
    _, heads, n, _ = query.shape
    groups, length = key.shape[1:3]
    folded = query[0].reshape(groups, -1, query.shape[-1])
    scores = torch.bmm(folded, key[0].transpose(1, 2)).view(heads, n, length).float() * scaling
    hidden = ~_visible(n, length, None, query.device)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).to(value.dtype)
    return torch.bmm(weights.view(groups, -1, length), value[0]).view(1, heads, n, -1)


@lru_cache(maxsize=1024)  # every layer asks for the same ones
def _visible(n: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """What each of the last n of so many places may see, (n, length): itself and what is before it."""
    place = torch.arange(length, device=device)
    back = place[-n:, None] - place[None, :]
    return back >= 0 if window is None else (back >= 0) & (back < window)


AttentionInterface.register(_NAME, _attention)
