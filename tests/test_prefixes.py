"""Claims about contexts that begin alike, and about the batches they come in."""

import pytest
from conftest import random_ids
from hypothesis import given
from hypothesis import strategies as st

from gdo_cli.lm.batching import packs, shared_prefixes

contexts = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), max_size=20)


@given(contexts, st.integers(1, 6), st.integers(1, 4))
def test_every_context_is_in_one_family_that_begins_alike(
    given_: list[list[int]], tokens: int, members: int
) -> None:
    families = shared_prefixes(given_, tokens, members)
    assert sorted(i for _, group in families for i in group) == list(range(len(given_)))
    for length, group in families:
        assert len({tuple(given_[i][:length]) for i in group}) == 1
        assert length == 0 or (length >= tokens and len(group) >= members)
        assert all(len(given_[i]) > length for i in group)


def test_contexts_are_grouped_by_what_they_begin_with() -> None:
    one, other = (random_ids(60, seed=seed).tolist() for seed in (0, 1))
    endings = [[9], [9, 10], [11, 12], [9, 10, 13]] * 4
    mixed = [prefix + ending for ending in endings for prefix in (one, other)] + [[2], one[:3]]
    assert sorted(length for length, _ in shared_prefixes(mixed, 48, 4)) == [0, 60, 60]
    assert shared_prefixes([], 48, 4) == []
    assert shared_prefixes([one] * 4, 48, 4) == [(59, [0, 1, 2, 3])]
    assert shared_prefixes([one] * 3, 48, 4) == [(0, [0, 1, 2])]


def test_a_long_common_prefix_is_not_given_up_for_a_neighbour_with_little_in_common() -> None:
    question = list(range(100, 140))
    asked = [[*question, 1], [*question, 2], [*question[:9], 300, 301], [*question[:9], 99]]
    families = shared_prefixes(asked, 8, 2)
    assert (40, [0, 1]) in families


@given(contexts, st.integers(1, 30))
def test_packs_hold_everything_once_within_the_budget(given_: list[list[int]], budget: int) -> None:
    lengths = [len(c) + 1 for c in given_]
    families = shared_prefixes(given_, 2, 2)
    common = {i: length for length, group in families for i in group}
    found = list(packs(families, lengths, budget))
    assert sorted(i for pack in found for _, group in pack for i in group) == list(range(len(given_)))
    for pack in found:
        assert all(group for _, group in pack)
        assert all(common[i] == length for length, group in pack for i in group)
        total = sum(length + sum(lengths[i] - length for i in group) for length, group in pack)
        assert total <= budget or sum(len(group) for _, group in pack) == 1


@pytest.mark.parametrize(("budget", "parts"), [(100, 1), (32, 2), (24, 2), (23, 4), (1, 4)])
def test_a_large_family_comes_in_parts_each_with_the_prefix(budget: int, parts: int) -> None:
    found = list(packs([(10, [0, 1, 2, 3])], [17, 17, 17, 17], budget))
    assert len(found) == parts
