"""Intervals and paired tests over items, from SciPy and sacrebleu.

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
ROUNDING = 1e-12  # scores, or differences of them, that are this near are equal
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
