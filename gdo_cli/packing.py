"""Sequences of different lengths one behind the other, without padding between them.

A third of a batch of SciTail's 16 examples is padding (844 of 1,246 tokens are not). Where only
attention looks across tokens, the batch can go through the decoder as one row of all its tokens, if
attention runs on each sequence by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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


def run_packed(decoder: Any, input_ids_BT: Tensor, lengths: Sequence[int]) -> Tensor:
    """Last hidden states of the sequences without their padding, (ΣT, D)."""
    rows = [row[:length] for row, length in zip(input_ids_BT, lengths, strict=True)]
    positions = [torch.arange(length, device=input_ids_BT.device) for length in lengths]
    with _packed_attention(decoder.config):
        hidden: Tensor = decoder(
            input_ids=torch.cat(rows)[None],
            position_ids=torch.cat(positions)[None],
            use_cache=False,
            sequence_lengths=tuple(lengths),
        )[0]
    return hidden[0]


def packed_places(positions_N: Tensor, width: int, lengths: Sequence[int]) -> Tensor:
    """Where the flat positions b·T + t of a padded batch stand in the packed one."""
    starts = torch.tensor([0, *lengths[:-1]], device=positions_N.device).cumsum(0)
    return starts[positions_N // width] + positions_N % width


@contextmanager
def _packed_attention(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = _NAME
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
    sequence_lengths: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each sequence on itself: (1, H, ΣT, d) → (1, ΣT, H, d)."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    fused = partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=scaling, enable_gqa=True)
    outputs = []
    for q, k, v in zip(*(x.split(sequence_lengths, dim=2) for x in (query, key, value)), strict=True):
        window = _window(q.shape[2], sliding_window, q.device)
        if q.shape[2] <= SHORT and window is None and not dropout:
            outputs.append(_short_attention(q, k, v, scaling))
        else:
            outputs.append(fused(q, k, v, window, is_causal=window is None))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _short_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention of one sequence by plain products: (1, H, T, d) → (1, H, T, d).

    The backward pass of torch's fused attention on a CPU takes nearly three times as long here. The
    query heads that share a key head stand below each other, so that one product serves them all.
    """
    _, heads, length, _ = query.shape
    groups = key.shape[1]
    folded = query[0].reshape(groups, -1, query.shape[-1])
    scores = torch.bmm(folded, key[0].transpose(1, 2)).view(heads, length, length).float() * scaling
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu_(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1).to(value.dtype)
    return torch.bmm(weights.view(groups, -1, length), value[0]).view(1, heads, length, -1)


def _window(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """What each token may see where the window is shorter than the sequence; None for all before it."""
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    return (back >= 0) & (back < sliding_window)


AttentionInterface.register(_NAME, _attention)
