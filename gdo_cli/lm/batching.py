"""Which sequences go through the decoder together: of similar length, or those that begin alike (few-shot
examples, the options of one question), whose common tokens are then computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Family = tuple[int, list[int]]  # tokens that are common, and who has them in common


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


def shared_prefixes(contexts: Sequence[list[int]], tokens: int, members: int) -> list[Family]:
    """Return contexts that begin alike, as (length of the common prefix, indices).

    All others come together at the end with length 0. At least one token of every context is left
    outside the prefix.

    Args:
        tokens: a family has at least so many in common.
        members: and at least so many members.
    """
    families: list[Family] = []
    alone: list[int] = []
    for common, group in _neighbours(contexts, tokens):
        common = min(common, *(len(contexts[i]) - 1 for i in group))
        if len(group) < members or common < tokens:
            alone += group
        else:
            families.append((common, group))
    return [*families, (0, sorted(alone))] if alone else families


def _neighbours(contexts: Sequence[list[int]], tokens: int) -> Iterator[Family]:
    """Runs of contexts, in their order as lists, whose prefixes are about equally long."""
    order = sorted(range(len(contexts)), key=lambda i: contexts[i])
    group, common = order[:1], 0
    for before, index in pairwise(order):
        near = _common(contexts[before], contexts[index])
        length = min(common, near) if len(group) > 1 else near
        if len(group) > 1 and near > 2 * common:  # the last one has better company than the group
            yield common, group[:-1]
            group, common = [before, index], near
        elif length < max(tokens, common / 2):  # a newcomer that would shorten the prefix of all
            yield common, group
            group, common = [index], 0
        else:
            group, common = [*group, index], length
    if group:
        yield common, group


def _common(a: list[int], b: list[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def packs(families: Sequence[Family], lengths: Sequence[int], budget: int) -> Iterator[list[Family]]:
    """Yield families in batches of at most ``budget`` tokens (or of one sequence), a large one in parts.

    Args:
        lengths: tokens of each whole sequence, the common ones included.
    """
    batch: list[Family] = []
    room = budget
    for common, group in families:
        part: list[int] = []
        for index in group:
            cost = lengths[index] - common + (0 if part else common)
            if cost > room and (batch or part):
                if part:
                    batch.append((common, part))
                yield batch
                batch, part, room, cost = [], [], budget, lengths[index]
            part.append(index)
            room -= cost
        batch.append((common, part))
    if batch:
        yield batch
