"""Sequences of different lengths one behind the other, without padding between them.

A third of a batch of SciTail's 16 examples is padding (844 of 1,246 tokens are not). Where only
attention looks across tokens, the batch can go through the decoder as one row of all its tokens, if
attention runs on each sequence by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.lm.compat import attention_exchanged, can_exchange_attention, only_attends, register_attention
from gdo_cli.lm.decoder import text_decoder

_NAME = "gdo_packed"
# Up to so many tokens squared, keeping a sequence's attention weights for backward costs little memory.
SHORT = 128
_refused: WeakSet[nn.Module] = WeakSet()  # decoders that have raised CannotPack


class CannotPack(Exception):
    """The decoder's attention does more than is known here; from now on :func:`can_pack` says so."""


def can_pack(model: PreTrainedModel) -> bool:
    """Return whether packing pays and the model's attention can be exchanged.

    On a GPU a kernel for every sequence costs more than the padding, which is computed for nothing but
    all at once.
    """
    decoder = text_decoder(model)
    return (
        next(model.parameters()).device.type == "cpu"
        and decoder not in _refused
        and can_exchange_attention(decoder)
        and only_attends(decoder)
    )


def run_packed(
    decoder: Any, segments: Sequence[list[int]], parents: Sequence[int], device: torch.device
) -> Tensor:
    """Return the last hidden states of token sequences one behind the other, (ΣT, D).

    Args:
        parents: for each segment the one that it goes on from, which stands before it and has no
            parent itself; -1 for none.
    Raises:
        CannotPack: this cannot be computed so.
    """
    packed = _Packed([len(segment) for segment in segments], parents, device)
    ids = [token for segment in segments for token in segment]
    places = [s.before + t for s in packed.segments for t in range(s.length)]
    with attention_exchanged(decoder.config, _NAME):
        try:
            hidden: Tensor = decoder(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([places], device=device),
                use_cache=False,
                packed=packed,
            )[0]
        except CannotPack:
            _refused.add(decoder)
            raise
    return hidden[0]


def packed_places(positions_N: Tensor, width: int, lengths: Sequence[int]) -> Tensor:
    """Return where the flat positions b·T + t of a padded batch stand in the packed one."""
    starts = torch.tensor([0, *lengths[:-1]], device=positions_N.device).cumsum(0)
    return starts[positions_N // width] + positions_N % width


@dataclass(frozen=True)
class _Segment:
    """A sequence in the row: where it and what it goes on from begin, and their lengths in tokens."""

    start: int
    length: int
    parent: int = 0
    before: int = 0  # 0 if there is no parent

    @property
    def own(self) -> list[int]:
        """Where in the row its tokens stand."""
        return list(range(self.start, self.start + self.length))

    @property
    def seen(self) -> list[int]:
        """Where they may look: at what they go on from and at themselves."""
        return [*range(self.parent, self.parent + self.before), *self.own]


class _Packed:
    """How the segments of a row attend; made once for all layers."""

    def __init__(self, lengths: Sequence[int], parents: Sequence[int], device: torch.device) -> None:
        starts = list(accumulate(lengths, initial=0))
        self.segments = [
            _Segment(start, n, starts[p], lengths[p]) if p >= 0 else _Segment(start, n)
            for start, n, p in zip(starts, lengths, parents, strict=False)
        ]
        alike: dict[tuple[int, int], list[_Segment]] = {}
        self.groups: list[_Group] = []
        for s in self.segments:
            if s.length * (s.before + s.length) > SHORT**2:
                self.groups.append(_Group([s], device, fused=True))
            else:
                alike.setdefault((_rounded(s.length), _rounded(s.before + s.length)), []).append(s)
        self.groups += [_Group(members, device, fused=False) for members in alike.values()]
        # Where each token of the row stands in what the groups give, one behind the other.
        order = [place for group in self.groups for place in group.order]
        stands = dict(zip(reversed(order), reversed(range(len(order))), strict=True))
        self.back_T = torch.tensor([stands[t] for t in range(starts[-1])], device=device)


def _rounded(n: int) -> int:
    """Up to the next power of two: padding at most doubles what is computed."""
    return max(16, 1 << (n - 1).bit_length())


class _Group:
    """Segments of similar length, padded with their own last token.

    The padding is computed like any token, and nobody reads it.
    """

    def __init__(self, segments: Sequence[_Segment], device: torch.device, fused: bool) -> None:
        queries, keys = (_filled(rows) for rows in ([s.own for s in segments], [s.seen for s in segments]))
        self.size, self.fused = len(segments), fused
        self.order = [place for row in queries for place in row]
        self.queries = torch.tensor(self.order, device=device)
        self.keys = torch.tensor([place for row in keys for place in row], device=device)
        own = _filled([list(range(s.before, s.before + s.length)) for s in segments])
        self._place_GN = torch.tensor(own, device=device)
        self._key_S = torch.arange(len(keys[0]), device=device)
        self._hidden: dict[int | None, Tensor] = {}

    def hidden(self, window: int | None) -> Tensor:
        """Return what a token may not see: what is after it or too far before it, (G, N, S)."""
        if window not in self._hidden:
            back_GNS = self._place_GN[:, :, None] - self._key_S
            self._hidden[window] = (back_GNS < 0) | (back_GNS >= (window or len(self._key_S)))
        return self._hidden[window]


def _filled(rows: list[list[int]]) -> list[list[int]]:
    """Rows of equal length: each goes on with its last entry."""
    width = max(map(len, rows))
    return [row + row[-1:] * (width - len(row)) for row in rows]


def _attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: _Packed | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each segment on its parent and itself: (1, H, ΣT, d) → (1, ΣT, H, d)."""
    # Nemotron does not hand on what it is given; Doge makes a mask of its own, which says more.
    if packed is None or attention_mask is not None:
        raise CannotPack
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_TC, key_TC, value_TC = (x[0].transpose(0, 1).flatten(1) for x in (query, key, value))
    (heads, d), shared = query.shape[1::2], key.shape[1]
    outputs = []
    for group in packed.groups:
        q = _rows(query_TC, group.queries).view(group.size, -1, shared, heads // shared, d)
        k, v = (_rows(x, group.keys).unflatten(1, (shared, 1, -1)) for x in (key_TC, value_TC))
        k, v = (x.unflatten(0, (group.size, -1)) for x in (k, v))
        attend = _fused if group.fused else _plain
        mixed = attend(q, k, v, group.hidden(sliding_window), scaling, dropout)
        outputs.append(mixed.reshape(len(group.order), -1))
    return _rows(torch.cat(outputs), packed.back_T).unflatten(1, (heads, -1))[None], None


def _rows(rows_TC: Tensor, places: Tensor) -> Tensor:
    """Rows at the given places. An embedding's backward pass is six times as fast as indexing's."""
    return F.embedding(places, rows_TC)


def _plain(
    query: Tensor, key: Tensor, value: Tensor, hidden_GNS: Tensor, scaling: float, dropout: float
) -> Tensor:
    """Attention by plain products: (G, N, K, R, d) on (G, S, K, 1, d) → (G, N, K, R, d of the values).

    The backward pass of torch's fused attention on a CPU takes nearly three times as long for short
    sequences. The R query heads that share a key head stand together: one product serves them all.
    """
    groups, n, k, r, _ = query.shape
    queries, keys, values = (x.transpose(1, 2).flatten(2, 3).flatten(0, 1) for x in (query, key, value))
    scores = torch.bmm(queries, keys.transpose(1, 2)).view(groups, k, n, r, -1).float() * scaling
    weights = scores.masked_fill(hidden_GNS[:, None, :, None], -torch.inf).softmax(-1).to(value.dtype)
    weights = F.dropout(weights, dropout).view(groups * k, n * r, -1)
    return torch.bmm(weights, values).view(groups, k, n, r, -1).transpose(1, 2)


def _fused(
    query: Tensor, key: Tensor, value: Tensor, hidden_GNS: Tensor, scaling: float, dropout: float
) -> Tensor:
    """The same by torch's kernel, which keeps no attention weights."""
    q, k, v = (x.flatten(2, 3).transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(
        q, k, v, ~hidden_GNS[:, None], dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).unflatten(2, query.shape[2:4])


register_attention(_NAME, _attention)
