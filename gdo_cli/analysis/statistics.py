"""Intervals and paired tests, from SciPy and sacrebleu: how sure a score is, and if a difference is real.

Every interval covers 95 %. Nothing here is random: resampling is seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999
_SEED = 0
_ROUNDING = 1e-12  # scores, or differences of them, that are this near are equal
BOOTSTRAP = "bootstrap, paired"
Values = Sequence[float]


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Second minus first on the same items or seeds, the p-value of no difference, and the test's name."""

    difference: float
    p: float
    test: str


# ------------------------------------------------------------------------------- right or wrong, by item


def accuracy(correct: Values) -> Interval:
    """Share of items that are right, with Wilson's interval (1927).

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


# ------------------------------------------------------------------------------------ texts, as a corpus


def bleu(texts: Sequence[str], answers: Sequence[str]) -> Interval:
    """SacreBLEU of a corpus, with sacrebleu's bootstrap interval (Koehn, 2004; 1000 resamples)."""
    import sacrebleu

    found = sacrebleu.BLEU().corpus_score(list(texts), [list(answers)], n_bootstrap=1000)
    return Interval(float(found.score), float(found._mean - found._ci), float(found._mean + found._ci))


def paired_bleu(first: Sequence[str], second: Sequence[str], answers: Sequence[str]) -> Paired:
    """sacrebleu's paired bootstrap (Koehn, 2004) of two systems on the same answers.

    It gives a system against itself the smallest p-value there is; here that is no difference, p = 1.
    """
    if list(first) == list(second):
        return Paired(0.0, 1.0, BOOTSTRAP)
    import sacrebleu
    from sacrebleu.significance import PairedTest

    systems = [("first", list(first)), ("second", list(second))]
    test = PairedTest(systems, {"BLEU": sacrebleu.BLEU()}, [list(answers)], test_type="bs")
    _, scores = test()
    before, after = scores["BLEU"]
    return Paired(float(after.score - before.score), float(after.p_value), BOOTSTRAP)


def bleu_difference(first: Sequence[str], second: Sequence[str], answers: Sequence[str]) -> Interval:
    """SacreBLEU of the second system minus the first's, with the percentiles of its paired bootstrap."""
    import sacrebleu

    metric = sacrebleu.BLEU()
    counted = [metric._extract_corpus_statistics(list(texts), [list(answers)]) for texts in (first, second)]

    def difference(items: Sequence[int]) -> float:
        before, after = (metric._aggregate_and_compute([found[i] for i in items]).score for found in counted)
        return float(after - before)

    draw = np.random.default_rng(_SEED)
    n = len(answers)
    resampled = [difference(draw.integers(n, size=n).tolist()) for _ in range(1000)]
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(difference(range(n)), float(low), float(high))


# --------------------------------------------------------------------------------------- over the seeds


def seed_mean(values: Values) -> Interval:
    """Mean over runs that differ in their seed alone, with Student's interval; needs two or more."""
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
        known = [(error, freedom) for error, freedom in self.errors if error > _ROUNDING]
        return max(
            (2 * float(stats.t.sf(abs(self.value) / error, freedom)) for error, freedom in known),
            default=None,
        )


def seeds_and_items(scores: Sequence[Values], weights: Values) -> Estimate:
    """Mean over seeds that were asked the same items, for other seeds and other items.

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
        """Two runs differ by this or more one time in twenty; or one run and what has no seed.

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
        if np.ptp(np.subtract(ours, theirs)) < _ROUNDING:
            return None
        return Paired(difference, float(stats.ttest_rel(ours, theirs).pvalue), "t, paired by seed")
    if all(np.ptp(list(scores.values())) < _ROUNDING for scores in (first, second)):
        return None
    found = stats.ttest_ind(list(second.values()), list(first.values()), equal_var=False)
    return Paired(difference, float(found.pvalue), "t, Welch")
