"""Intervals and paired tests over items, over seeds, and over both, from SciPy.

Every interval covers 95 %. Nothing here is random: resampling is seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gdo_cli.stats.outcomes import Interval, Paired

LEVEL = 0.95
RESAMPLES = 9999
_SEED = 0
ROUNDING = 1e-12  # scores, or differences of them, that are this near are equal
Values = Sequence[float]


# ---------------------------------------------------------------------------------------------- over items


def accuracy(correct: Values) -> Interval:
    """Return the share of items that are right, with Wilson's interval (1927).

    Args:
        correct: 1 or 0 for each item.
    """
    n_right = round(sum(correct))
    found = stats.binomtest(n_right, len(correct)).proportion_ci(LEVEL, method="wilson")
    return Interval(n_right / len(correct), float(found.low), float(found.high))


def mcnemar(first: Values, second: Values) -> Paired:
    """McNemar's exact test: of the items that one of two models alone gets right, is it either as often?

    Args:
        first, second: 1 or 0 for each of the same items.
    """
    changes = np.subtract(second, first, dtype=float)
    gained, lost = int((changes > 0).sum()), int((changes < 0).sum())
    p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Paired((gained - lost) / len(changes), float(p), "McNemar, exact")


def average(values: Values, weights: Values) -> Interval:
    """Σ w·v / Σ w over items, with a BCa bootstrap interval (Efron, 1987) over the same items."""
    value = float(np.average(values, weights=weights))
    if len(values) < 2 or np.ptp(values) == 0:
        return Interval(value, value, value)
    found = stats.bootstrap(
        (np.asarray(values), np.asarray(weights)),
        lambda v, w, axis: (v * w).sum(axis) / w.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def permutation(first: Values, second: Values, weights: Values) -> Paired:
    """Paired permutation test of a weighted mean: the sign of each item's difference is a coin's throw."""
    differences = np.subtract(second, first) * (np.asarray(weights) / np.sum(weights))
    found = stats.permutation_test(
        (differences,),
        lambda d, axis: d.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(_SEED),
    )
    return Paired(float(differences.sum()), float(found.pvalue), "permutation, paired")


def percentiles(statistic: Callable[[Sequence[int]], float], n: int, resamples: int) -> Interval:
    """Return a statistic of n items, with the percentiles of what it is of items drawn from them.

    Args:
        statistic: takes the places of the items drawn.
    """
    draw = np.random.default_rng(_SEED)
    drawn = [statistic(draw.integers(n, size=n).tolist()) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(statistic(range(n)), float(low), float(high))


# ------------------------------------------------------------------- over seeds, and over seeds and items


def seed_mean(values: Values) -> Interval:
    """Return the mean over runs that differ in their seed alone, with Student's interval; of two or more."""
    centre, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return Interval(centre, centre, centre)
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=centre, scale=error)
    return Interval(centre, float(low), float(high))


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard errors, each with the degrees of freedom of its t; the worst one counts."""

    value: float
    errors: tuple[tuple[float, float], ...]

    @property
    def interval(self) -> Interval:
        reach = max(error * float(stats.t.ppf((1 + LEVEL) / 2, freedom)) for error, freedom in self.errors)
        return Interval(self.value, self.value - reach, self.value + reach)

    @property
    def p(self) -> float | None:
        """Two-sided, of a mean of zero; None where nothing varies that could be judged by."""
        known = [(error, freedom) for error, freedom in self.errors if error > ROUNDING]
        found = (2 * float(stats.t.sf(abs(self.value) / error, freedom)) for error, freedom in known)
        return max(found, default=None)


def seeds_and_items(scores: Sequence[Values], weights: Values) -> Estimate:
    """Return the mean over seeds that were asked the same items, for other seeds and other items.

    Scores are μ + a(seed) + b(item) + e, all random. The variance of the seeds' means over S and that of
    the items' means over n both hold what e adds to the mean, so it is taken off once (Cornfield & Tukey,
    1956); what is left is never less than the larger of the two. Degrees of freedom by Satterthwaite (1946).
    As these are too many where seeds outweigh items, the error over seeds alone, with its own, stands beside.

    Args:
        scores: a row for each seed (two or more), a column for each item; or differences of such.
        weights: of the items, e.g. tokens.
    """
    table_SN = np.asarray(scores, dtype=float)
    n_seeds, n_items = table_SN.shape
    share_N = np.asarray(weights) * n_items / np.sum(weights)
    value = float((table_SN * share_N).mean())
    around_SN = (table_SN - value) * share_N  # of a ratio of sums, to the first order
    seeds_S, items_N = around_SN.mean(1), around_SN.mean(0)
    rest_SN = around_SN - seeds_S[:, None] - items_N[None, :]
    over_seeds = float(seeds_S.var(ddof=1)) / n_seeds
    over_items = float(items_N.var(ddof=1)) / n_items
    rest = float((rest_SN**2).sum()) / ((n_seeds - 1) * (n_items - 1)) / (n_seeds * n_items)
    variance = max(over_seeds + over_items - rest, over_seeds, over_items)
    spread = over_seeds**2 / (n_seeds - 1) + over_items**2 / (n_items - 1)
    freedom = variance**2 / spread if spread else float(n_seeds - 1)
    return Estimate(value, ((variance**0.5, freedom), (over_seeds**0.5, n_seeds - 1)))


def seed_difference(first: dict[int, float], second: dict[int, float]) -> Paired | None:
    """Student's paired test over the same seeds, Welch's over different ones.

    Args:
        first, second: seed → score.
    Returns:
        None if there is no spread to judge by: fewer than two seeds, or all differences the same.
    """
    if min(len(first), len(second)) < 2:
        return None
    before, after = list(first.values()), list(second.values())
    difference = float(np.mean(after) - np.mean(before))
    if first.keys() == second.keys():
        after = [second[seed] for seed in first]
        if np.ptp(np.subtract(after, before)) < ROUNDING:
            return None
        return Paired(difference, float(stats.ttest_rel(after, before).pvalue), "t, paired by seed")
    if max(np.ptp(before), np.ptp(after)) < ROUNDING:
        return None
    found = stats.ttest_ind(after, before, equal_var=False)
    return Paired(difference, float(found.pvalue), "t, Welch")
