"""Claims about intervals and tests, each against a calculation of its own."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import sacrebleu
from scipy import stats
from study.evidence import seed_spread

from gdo_cli.stats import intervals as statistics
from gdo_cli.stats.intervals import seed_difference, seed_mean, seeds_and_items
from gdo_cli.stats.metrics import BLEU, CHRF, SacreMetric
from gdo_cli.stats.outcomes import Interval, Outcome, mean
from gdo_cli.support.errors import UserError


def binary(n_right: int, n: int) -> list[float]:
    return [1.0] * n_right + [0.0] * (n - n_right)


# ------------------------------------------------------------------------------------- right or wrong


@pytest.mark.parametrize(("n_right", "n"), [(0, 10), (10, 10), (1, 3), (158, 200), (340, 400)])
def test_wilsons_interval_ends_where_the_share_is_just_not_refused(n_right: int, n: int) -> None:
    """Its ends solve (p̂ - p)² = z²·p(1-p)/n."""
    z, share = NormalDist().inv_cdf(0.975), n_right / n
    low, high = sorted(np.roots([1 + z**2 / n, -(2 * share + z**2 / n), share**2]).real)
    found = statistics.accuracy(binary(n_right, n))
    assert (found.value, found.low, found.high) == pytest.approx((share, low, high), abs=1e-9)


@pytest.mark.parametrize(("gained", "lost", "both"), [(0, 1, 3), (3, 9, 20), (5, 5, 0), (12, 0, 1)])
def test_mcnemar_is_a_fair_coin_thrown_for_each_item_on_which_the_models_differ(
    gained: int, lost: int, both: int
) -> None:
    first = binary(both + lost, both + lost + gained)
    second = [1.0] * both + [0.0] * lost + [1.0] * gained
    n, k = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    found = statistics.mcnemar(first, second)
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert found.difference == pytest.approx((gained - lost) / (n + both))


def test_models_that_agree_on_every_item_do_not_differ() -> None:
    found = statistics.mcnemar(binary(3, 5), binary(3, 5))
    assert (found.difference, found.p) == (0.0, 1.0)


# --------------------------------------------------------------------------------------------- numbers


def test_a_weighted_mean_has_an_interval_of_about_two_standard_errors() -> None:
    """For many items the bootstrap must give what the ratio estimator's standard error gives."""
    rng = np.random.default_rng(1)
    values, weights = rng.normal(3, 1, 500), rng.integers(5, 50, 500).astype(float)
    expected = mean([Outcome(v, w) for v, w in zip(values, weights, strict=True)])
    found = statistics.average(values.tolist(), weights.tolist())
    assert found.value == pytest.approx(expected.value)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * expected.se, rel=0.05)
    assert found.low < found.value < found.high


def test_equal_values_have_no_spread() -> None:
    assert statistics.average([2.0, 2.0], [1.0, 3.0]) == Interval(2.0, 2.0, 2.0)


def test_the_permutation_test_counts_the_signs_that_give_as_large_a_difference() -> None:
    rng = np.random.default_rng(2)
    first, second, weights = rng.normal(size=8), rng.normal(0.4, 1, 8), rng.integers(1, 5, 8)
    moved = (second - first) * weights / weights.sum()
    sums = [abs(np.dot(signs, moved)) for signs in itertools.product((-1, 1), repeat=8)]
    found = statistics.permutation(first.tolist(), second.tolist(), weights.tolist())
    assert found.difference == pytest.approx(moved.sum())
    assert found.p == pytest.approx(np.mean([s >= abs(moved.sum()) - 1e-12 for s in sums]))


# ----------------------------------------------------------------------------------------------- texts

ANSWERS = [f"le chat numéro {i} dort sur la table rouge" for i in range(8)]
GOOD = [text.replace("rouge", "verte") if i % 3 else text for i, text in enumerate(ANSWERS)]
BAD = [" ".join(reversed(text.split())) for text in ANSWERS]


ONES = [1.0] * len(ANSWERS)


def of_corpus(metric: SacreMetric, texts: list[str], answers: list[str]) -> float:
    score = {BLEU: sacrebleu.corpus_bleu, CHRF: sacrebleu.corpus_chrf}[metric]
    return float(score(texts, [answers]).score)


@pytest.mark.parametrize("metric", [BLEU, CHRF])
def test_a_corpus_is_resampled_by_sentences(metric: SacreMetric) -> None:
    found = metric.interval(GOOD, ONES, ANSWERS)
    assert found.value == of_corpus(metric, GOOD, ANSWERS)
    draws = np.random.default_rng(12345).choice(8, size=(1000, 8))  # sacrebleu's own seed
    scores = sorted(of_corpus(metric, [GOOD[i] for i in d], [ANSWERS[i] for i in d]) for d in draws)
    assert found.high - found.low == pytest.approx(scores[-26] - scores[25], abs=0.01)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("metric", [BLEU, CHRF])
def test_a_corpus_equals_itself_and_differs_from_its_reverse(metric: SacreMetric) -> None:
    same = metric.paired(GOOD, GOOD, ONES, ANSWERS)
    assert (same.difference, same.p) == (0.0, 1.0)
    worse = metric.paired(GOOD, BAD, ONES, ANSWERS)
    expected = of_corpus(metric, BAD, ANSWERS) - of_corpus(metric, GOOD, ANSWERS)
    assert worse.difference == pytest.approx(expected)
    assert worse.p < 0.01


@pytest.mark.parametrize("metric", [BLEU, CHRF])
def test_a_difference_of_corpora_has_an_interval_around_it(metric: SacreMetric) -> None:
    answers = [f"le chien numéro {i} dort dans la petite maison" for i in range(30)]
    worse = [a if i % 2 else a.replace("petite", "grande") for i, a in enumerate(answers)]
    ones = [1.0] * 30
    found = metric.difference(worse, answers, ones, answers)
    assert found.value == pytest.approx(100 - of_corpus(metric, worse, answers))
    assert 0 < found.low < found.value < found.high
    same = metric.difference(worse, worse, ones, answers)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("metric", [BLEU, CHRF])
def test_a_sacrebleu_without_what_a_difference_needs_is_told_by_its_version(
    metric: SacreMetric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sacrebleu.metrics.base.Metric, "_extract_corpus_statistics")
    told = rf"sacrebleu {sacrebleu.__version__} has no {metric.scorer}._extract_corpus_statistics, .*2\.5"
    with pytest.raises(UserError, match=told):
        metric.difference(GOOD, BAD, ONES, ANSWERS)


# ----------------------------------------------------------------------------------------------- seeds


def test_the_mean_over_three_seeds_has_students_interval() -> None:
    found = seed_mean([0.5, 0.6, 0.8])
    half = 4.302653 * math.sqrt(0.07 / 3 / 3)  # t(0.975; 2); Σ(x - 19/30)² = 0.14/3
    assert (found.value, found.low, found.high) == pytest.approx((19 / 30, 19 / 30 - half, 19 / 30 + half))
    assert seed_mean([0.5, 0.5]) == Interval(0.5, 0.5, 0.5)


def test_one_time_in_twenty_a_pair_of_runs_lies_further_apart_than_the_spread_says() -> None:
    random = np.random.default_rng(0)
    further = []
    for _ in range(4000):
        groups = [random.normal(centre, 0.3, size=n) for centre, n in ((0.2, 3), (0.9, 3), (0.5, 2))]
        one, other = random.normal(0.4, 0.3, size=2)
        found = seed_spread([list(group) for group in groups])
        residuals = np.concatenate([group - group.mean() for group in groups])
        assert found.deviation == pytest.approx(np.sqrt((residuals**2).sum() / 5))
        further.append(abs(one - other) > found.apart())
    assert np.mean(further) == pytest.approx(0.05, abs=0.01)  # three standard errors of the share


def test_with_items_that_agree_the_mean_has_students_interval_over_seeds() -> None:
    scores = [0.5, 0.6, 0.8]
    found = seeds_and_items([[score] * 7 for score in scores], [1.0] * 7)
    expected = seed_mean(scores)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert found.p == pytest.approx(stats.ttest_1samp(scores, 0).pvalue)


def test_with_seeds_that_agree_the_mean_has_the_items_error() -> None:
    """Here that of a ratio of sums, as the runs compute it."""
    values, weights = [0.0, 1.0, 3.0, 2.0], [2.0, 1.0, 1.0, 4.0]
    found = seeds_and_items([values] * 3, weights)
    expected = mean([Outcome(v, w) for v, w in zip(values, weights, strict=True)])
    (error, freedom), _ = found.errors
    assert (found.value, error, freedom) == pytest.approx((expected.value, expected.se, 3))
    assert found.interval.high - found.value == pytest.approx(3.182446 * expected.se)  # t(0.975; 3)
    still = seeds_and_items([[0.25] * 4] * 3, weights)
    assert (still.interval, still.p) == (Interval(0.25, 0.25, 0.25), None)


def test_items_never_make_an_interval_over_seeds_narrower() -> None:
    random = np.random.default_rng(0)
    for over_seeds in (0.0, 0.05, 0.2):
        table_SN = (
            random.normal(0, over_seeds, (3, 1)) + random.normal(0, 0.3, 40) + random.normal(0, 0.2, (3, 40))
        )
        found, alone = seeds_and_items(table_SN.tolist(), [1.0] * 40), table_SN.mean(1).tolist()
        assert found.interval.high - found.value >= seed_mean(alone).high - found.value - 1e-12
        assert found.p is not None
        assert found.p >= stats.ttest_1samp(alone, 0).pvalue - 1e-12


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("over_seeds", "over_items", "rest"), [(0.05, 0.0, 0.4), (0.0, 0.4, 0.2), (0.05, 0.4, 0.2)]
)
def test_nineteen_times_in_twenty_the_interval_over_seeds_and_items_holds_the_truth(
    over_seeds: float, over_items: float, rest: float
) -> None:
    random = np.random.default_rng(0)
    n_seeds, n_items, n_studies = 3, 60, 1500
    held = []
    for _ in range(n_studies):
        seeds_S, items_N = random.normal(0, over_seeds, n_seeds), random.normal(0, over_items, n_items)
        table_SN = 0.3 + seeds_S[:, None] + items_N + random.normal(0, rest, (n_seeds, n_items))
        interval = seeds_and_items(table_SN.tolist(), [1.0] * n_items).interval
        held.append(interval.low <= 0.3 <= interval.high)
    # Never less than promised, up to three standard errors of the share; more where one is counted in both.
    assert 0.95 - 3 * (0.95 * 0.05 / n_studies) ** 0.5 < np.mean(held) < 0.995


def p_at_two_degrees(t: float) -> float:
    """Two-sided p-value of Student's t at two degrees of freedom, in closed form."""
    return 1 - abs(t) / math.sqrt(2 + t**2)


def test_the_same_seeds_are_compared_in_pairs() -> None:
    found = seed_difference({0: 0.50, 1: 0.62, 2: 0.80}, {2: 0.85, 0: 0.52, 1: 0.70})
    assert found is not None
    assert found.difference == pytest.approx(0.05)
    t = 0.05 / math.sqrt((0.03**2 + 0.03**2) / 2 / 3)  # differences 0.02, 0.08, 0.05
    assert found.p == pytest.approx(p_at_two_degrees(t))


def test_other_seeds_are_compared_by_welch() -> None:
    found = seed_difference({0: 0.5, 1: 0.6}, {2: 0.7, 3: 0.8})  # equal variances: 2 degrees
    assert found is not None
    assert found.p == pytest.approx(p_at_two_degrees(0.2 / math.sqrt(2 * 0.005 / 2)))
    assert "Welch" in found.test


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({0: 0.5}, {0: 0.6, 1: 0.7}),
        ({0: 0.5, 1: 0.6}, {0: 0.6, 1: 0.7}),
        ({0: 0.5, 1: 0.5}, {2: 0.6, 3: 0.6}),
    ],
)
def test_without_a_spread_over_seeds_there_is_no_p_value(
    first: dict[int, float], second: dict[int, float]
) -> None:
    assert seed_difference(first, second) is None
