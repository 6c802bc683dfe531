"""Claims about the test behind a promise: bounds of what was lost, against SciPy and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from gdo_cli.stats.noninferiority import Lost, measure_lost

LEVEL = 0.05


def lost_of(n_lost: int, n_gained: int, n: int, tolerated: float, level: float = LEVEL) -> Lost:
    """What is said of two models, the second of which lost and gained so many of n items."""
    before = [1.0] * n_lost + [0.0] * n_gained + [1.0] * (n - n_lost - n_gained)
    after = [0.0] * n_lost + [1.0] * n_gained + [1.0] * (n - n_lost - n_gained)
    return measure_lost(before, after, [1.0] * n, tolerated, level)


def score_by_brute_force(n_lost: int, n_gained: int, n: int, delta: float) -> float:
    """The score statistic with nuisance parameters from a numerical maximum of the likelihood."""

    def unlikely(gained: float) -> float:
        p = [gained + delta, gained, 1 - 2 * gained - delta]
        counts = [n_lost, n_gained, n - n_lost - n_gained]
        return -sum(k * math.log(max(q, 1e-300)) for k, q in zip(counts, p, strict=True) if k)

    low, high = max(0.0, -delta), (1 - delta) / 2
    best = optimize.minimize_scalar(
        unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    ).x
    variance = (2 * best + delta - delta**2) / n
    return float(((n_lost - n_gained) / n - delta) / math.sqrt(variance))


@pytest.mark.parametrize("counts", [(12, 2, 50), (9, 4, 56), (3, 0, 40), (0, 3, 40), (30, 25, 200)])
def test_bounds_are_where_the_score_test_of_brute_force_just_rejects(counts: tuple[int, int, int]) -> None:
    found, z = lost_of(*counts, tolerated=0.01), stats.norm.ppf(1 - LEVEL)
    assert score_by_brute_force(*counts, found.low) == pytest.approx(z, abs=1e-4)
    assert score_by_brute_force(*counts, found.high) == pytest.approx(-z, abs=1e-4)


def test_items_that_all_stay_the_same_bound_the_loss_by_their_number() -> None:
    z2 = stats.norm.ppf(1 - LEVEL) ** 2
    for n in (20, 200, 2000):
        assert lost_of(0, 0, n, tolerated=0.01).high == pytest.approx(z2 / (n + z2), rel=1e-6)


@pytest.mark.parametrize(("b", "c"), [(0.10, 0.05), (0.05, 0.0), (0.20, 0.15)])
def test_a_loss_at_the_margin_is_called_kept_as_rarely_as_the_level_says(b: float, c: float) -> None:
    draw, n, repeats = np.random.default_rng(0), 300, 2000
    counts = draw.multinomial(n, [b, c, 1 - b - c], size=repeats)
    kept = np.mean([lost_of(int(x), int(y), n, tolerated=b - c).verdict == "kept" for x, y, _ in counts])
    # A discrete test of this size is off its level by up to a point, 2,000 draws by 0.015 (3 sigma).
    assert 0.02 < kept < 0.075


@pytest.mark.parametrize("margin", [-0.1, 0.02, 0.05, 0.2])
def test_numbers_are_judged_as_by_the_t_test_of_scipy(margin: float) -> None:
    draw = np.random.default_rng(1)
    before = draw.normal(-3, 1, 60)
    after = before - draw.normal(0.05, 0.2, 60)
    found = measure_lost(list(before), list(after), [1.0] * 60, margin, LEVEL)
    less = stats.ttest_1samp(before - after, margin, alternative="less").pvalue
    more = stats.ttest_1samp(before - after, margin, alternative="greater").pvalue
    assert (found.high <= margin) == (less <= LEVEL)
    assert (found.low > margin) == (more < LEVEL)


def test_a_share_of_the_base_is_judged_with_the_error_of_the_base() -> None:
    draw = np.random.default_rng(2)
    before = draw.normal(3, 1, 50)  # a loss, of which less is better
    after = before * 1.01 + draw.normal(0, 0.1, 50)
    found = measure_lost(list(-before), list(-after), [1.0] * 50, 0.0, LEVEL, share=0.02)
    p = stats.ttest_1samp(after - 1.02 * before, 0, alternative="less").pvalue
    assert (found.verdict == "kept") == (p <= LEVEL)
    assert found.tolerated == pytest.approx(0.02 * before.mean())
    assert found.value == pytest.approx((after - before).mean())


def test_tokens_weigh_as_in_a_ratio_of_sums() -> None:
    draw = np.random.default_rng(3)
    old, tokens = draw.normal(-3, 1, 400), draw.integers(5, 300, 400).astype(float)
    new = old - draw.normal(0.05, 0.2, 400)
    found = measure_lost(list(old), list(new), list(tokens), 0.05, LEVEL)
    assert found.value == pytest.approx(np.average(old - new, weights=tokens))
    resampled = [np.average((old - new)[i], weights=tokens[i]) for i in draw.integers(400, size=(4000, 400))]
    assert (found.high - found.low) / 2 == pytest.approx(1.645 * np.std(resampled), rel=0.05)


def test_the_number_that_would_decide_is_the_least_one_that_does() -> None:
    found = lost_of(6, 4, 100, tolerated=0.05)
    assert found.verdict == "undecided"
    assert found.needed is not None

    def verdict(n: int) -> str:  # what counts of the same shares would bring, by brute force
        z = stats.norm.ppf(1 - LEVEL)
        score = score_by_brute_force(6, 4, 100, 0.05) * math.sqrt(n / 100)
        return "undecided" if abs(score) < z else "decided"

    assert verdict(found.needed) == "decided"
    assert verdict(found.needed - 1) == "undecided"


def test_what_lies_at_the_margin_itself_no_number_of_items_decides() -> None:
    assert lost_of(5, 0, 100, tolerated=0.05).needed is None


def test_a_tolerance_of_zero_judges_these_items_alone() -> None:
    assert lost_of(0, 0, 10, tolerated=0.0).verdict == "kept"
    assert lost_of(1, 1, 10, tolerated=0.0).verdict == "kept"
    assert lost_of(1, 0, 10, tolerated=0.0).verdict == "lost"


def test_one_item_tells_nothing_of_others() -> None:
    assert measure_lost([-1.5], [-1.6], [1.0], 0.05, LEVEL).verdict == "undecided"


@given(
    counts=st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))),
    tolerated=st.floats(0.001, 0.5),
)
@settings(deadline=None, max_examples=60)
def test_the_bounds_hold_the_value_whatever_the_counts(
    counts: tuple[int, int, int], tolerated: float
) -> None:
    n_lost, n_gained, n = counts
    n_gained = min(n_gained, n - n_lost)
    found = lost_of(n_lost, n_gained, n, tolerated)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.value == pytest.approx((n_lost - n_gained) / n)
    other = lost_of(n_gained, n_lost, n, tolerated)  # the models in each other's place
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
