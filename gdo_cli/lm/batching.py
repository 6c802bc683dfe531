"""Sequences of different lengths, put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def pad(rows: Sequence[list[int]]) -> Tensor:
    """Return token lists as one right-padded (B, T) tensor."""
    width = max(len(row) for row in rows)
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def by_length(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Yield the indices in batches of similar length, longest first, so that memory is known at the start."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
