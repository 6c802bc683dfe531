"""How sure a score is over seeds, and over seeds and items together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gdo_cli.stats.intervals import LEVEL, ROUNDING, Values
from gdo_cli.stats.uncertainty import Interval, Paired

# --------------------------------------------------------------------------------------- over the seeds


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
        return max(
            (2 * float(stats.t.sf(abs(self.value) / error, freedom)) for error, freedom in known),
            default=None,
        )


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


@dataclass(frozen=True)
class SeedSpread:
    """How far runs of one configuration lie apart.

    Attributes:
        deviation: standard deviation of one run.
        freedom: degrees of freedom that it was estimated with.
    """

    deviation: float
    freedom: int

    def apart(self, runs: int = 2) -> float:
        """Return by how much two runs differ, or more, one time in twenty; or one run and what has no seed.

        As the deviation is an estimate itself, Student's t says how far is far.
        """
        return self.deviation * runs**0.5 * float(stats.t.ppf((1 + LEVEL) / 2, self.freedom))


def seed_spread(groups: Sequence[Values]) -> SeedSpread:
    """Of scores by configuration, each of two seeds or more: √(Σ (nᵢ − 1) sᵢ² / Σ (nᵢ − 1)), pooled."""
    freedom = sum(len(scores) - 1 for scores in groups)
    squares = sum((len(scores) - 1) * float(np.var(scores, ddof=1)) for scores in groups)
    return SeedSpread((squares / freedom) ** 0.5, freedom)


def seed_difference(first: dict[int, float], second: dict[int, float]) -> Paired | None:
    """Student's paired test over the same seeds, Welch's over different ones.

    Args:
        first, second: seed → score.
    Returns:
        None if there is no spread to judge by: fewer than two seeds, or all differences the same.
    """
    if min(len(first), len(second)) < 2:
        return None
    difference = float(np.mean(list(second.values())) - np.mean(list(first.values())))
    if first.keys() == second.keys():
        ours, theirs = [second[s] for s in first], list(first.values())
        if np.ptp(np.subtract(ours, theirs)) < ROUNDING:
            return None
        return Paired(difference, float(stats.ttest_rel(ours, theirs).pvalue), "t, paired by seed")
    if all(np.ptp(list(scores.values())) < ROUNDING for scores in (first, second)):
        return None
    found = stats.ttest_ind(list(second.values()), list(first.values()), equal_var=False)
    return Paired(difference, float(found.pvalue), "t, Welch")
