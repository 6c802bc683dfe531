"""Intervals and paired tests over items, from SciPy.

Every interval covers 95 %. Nothing here is random: resampling is seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from gdo_cli.stats.uncertainty import Interval, Paired

LEVEL = 0.95
RESAMPLES = 9999
_SEED = 0
ROUNDING = 1e-12  # scores, or differences of them, that are this near are equal
Values = Sequence[float]


# ------------------------------------------------------------------------------- right or wrong, by item


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
    pairs = list(zip(first, second, strict=True))
    gained = sum(b > a for a, b in pairs)
    lost = sum(a > b for a, b in pairs)
    p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Paired((gained - lost) / len(pairs), float(p), "McNemar, exact")


# ------------------------------------------------------------------------------------- numbers, by item


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
    share = np.asarray(weights) / np.sum(weights)
    differences = (np.asarray(second) - np.asarray(first)) * share
    found = stats.permutation_test(
        (differences,),
        lambda d, axis: d.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(_SEED),
    )
    return Paired(float(differences.sum()), float(found.pvalue), "permutation, paired")


# --------------------------------------------------------------------------------------- of whole corpora


def percentiles(statistic: Callable[[Sequence[int]], float], n: int, resamples: int) -> Interval:
    """Return a statistic of n items, with the percentiles of what it is of items drawn from them.

    Args:
        statistic: takes the places of the items drawn.
    """
    draw = np.random.default_rng(_SEED)
    drawn = [statistic(draw.integers(n, size=n).tolist()) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(statistic(range(n)), float(low), float(high))
