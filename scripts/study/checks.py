"""What a claim is checked by: a comparison, a rule that was written down before, and its outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from statistics import mean
from typing import Protocol

from gdo_cli.runs.items import commonest, items_of, over_seeds, right_answers
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats import intervals as statistics
from gdo_cli.stats.metrics import BLEU, measure_named
from gdo_cli.stats.outcomes import Interval
from gdo_cli.support.markdown import rate
from study.evidence import SCORE, Evidence, Of, asked, difference, measure_of

SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
OPEN, UNMEASURED = "inconclusive", "not measured"
SEEDS_OPEN = "inconclusive (seeds)"  # the items would decide, but other seeds may turn it around
NOT_LEARNT = "not learnt"
# What counts as the same: 5 points of accuracy, 2 of BLEU. The paper calls ±2 points stable.
MARGIN, BLEU_MARGIN = 0.05, 2.0
NEAR_ZERO = 0.10


@dataclass(frozen=True)
class Row:
    """A check with its outcome, as it stands in a table."""

    what: str
    verdict: str
    first: str = "–"
    second: str = "–"
    difference: str = "–"
    over: str = "–"


class Check(Protocol):
    """One or several rows of a claim's table."""

    def rows(self, evidence: Evidence) -> Iterable[Row]: ...


def overall(verdicts: Iterable[str]) -> str:
    """A claim is supported if all that was measured supports it, and fails with any that does not."""
    made = [v for v in verdicts if v not in ("", UNMEASURED)]
    measured = [v for v in made if v != NOT_LEARNT]
    if not measured:
        return NOT_LEARNT if made else UNMEASURED
    if NOT_SUPPORTED in measured:
        return NOT_SUPPORTED
    return OPEN if {OPEN, SEEDS_OPEN} & set(measured) else SUPPORTED


def above(interval: Interval, bound: float) -> str:
    """Whether an interval lies above a bound, below it, or across it."""
    if interval.low > bound:
        return SUPPORTED
    return NOT_SUPPORTED if interval.high < bound else OPEN


def unless_seeds(verdict: str, distance: float, noise: float) -> str:
    """The verdict of single runs, left open where they lie nearer to the bound than seeds lie apart."""
    return SEEDS_OPEN if verdict in (SUPPORTED, NOT_SUPPORTED) and abs(distance) < noise else verdict


@dataclass(frozen=True)
class Guess:
    """What guessing gets: any option at random, or the commonest answer or place of the answer each time.

    Attributes:
        share: accuracy of any option at random.
        letters: runs on the same items that were answered with the letter of the right option.
    """

    share: float
    letters: Of | None = None

    def best(self, run: RunResult, evidence: Evidence) -> float:
        """The accuracy of the best of them on the run's test items."""
        same = [r for r in evidence.runs(self.letters) if _items(r) == _items(run)] if self.letters else []
        return max(self.share, *(commonest(right_answers(r)) for r in (run, *same[:1])))


def _items(run: RunResult) -> tuple[str, int]:
    return str(run.record.data["test"]["sha256"]), len(right_answers(run))


@dataclass(frozen=True)
class Compared:
    """Two kinds of run in one measure.

    Attributes:
        rule: ``not worse`` (the second is worse by less than the margin: the whole interval lies above
            minus that), ``better`` (the whole interval lies above zero), or ``told`` (no verdict).
        margin: instead of MARGIN.
        guess: where neither run lies above it with its whole interval, nothing was learnt that could be
            compared.
        one_training: both sides come from the same training, so seeds do not part them.
    """

    what: str
    first: Of
    second: Of
    measure: str = SCORE
    rule: str = "not worse"
    margin: float | None = None
    guess: Guess | None = None
    one_training: bool = False

    def rows(self, evidence: Evidence) -> Iterable[Row]:
        first, second = evidence.runs(self.first), evidence.runs(self.second)
        if not (first and second):
            yield Row(self.what, UNMEASURED)
            return
        found = difference(first, second, self.measure)
        if found is None:
            yield self._side_by_side(first, second)
            return
        margin, digits = self._margin(first[0]), self._digits(first[0])
        verdict = ""
        if self.rule != "told":
            bound = 0 if self.rule == "better" else -margin
            verdict = above(found.interval, bound)
            if found.seeds == 1 and not self.one_training:
                noise = evidence.noise(measure_of(first[0], self.measure), first, second)
                verdict = unless_seeds(verdict, found.interval.value - bound, noise)
        if self.guess and not any(_learnt(runs, self.guess, evidence) for runs in (first, second)):
            verdict = NOT_LEARNT
        yield Row(
            self.what,
            verdict,
            _named(first, found.first, digits),
            _named(second, found.second, digits),
            shown(found.interval, digits, signed=True),
            found.over,
        )

    def _margin(self, run: RunResult) -> float:
        own = BLEU_MARGIN if measure_of(run, self.measure) == BLEU.key else MARGIN
        return own if self.margin is None else self.margin

    def _digits(self, run: RunResult) -> int:
        return measure_named(measure_of(run, self.measure)).digits

    def _side_by_side(self, first: list[RunResult], second: list[RunResult]) -> Row:
        """Scores on different items: shown, but not compared."""

        def side(runs: list[RunResult]) -> str:
            interval, over = _score(runs, measure_of(runs[0], self.measure))
            return f"{_named(runs, interval.value, self._digits(runs[0]))}, {over}"

        verdict = "" if self.rule == "told" else UNMEASURED
        return Row(self.what, verdict, side(first), side(second), over="other items")


def _learnt(runs: list[RunResult], guess: Guess, evidence: Evidence) -> bool:
    """Whether the task score lies above what guessing gets."""
    return above(_score(runs, runs[0].task_score)[0], guess.best(runs[0], evidence)) == SUPPORTED


@dataclass(frozen=True)
class NearZero:
    """Whether a kind of run keeps less than a tenth."""

    what: str
    of: Of
    measure: str = RETENTION

    def rows(self, evidence: Evidence) -> Iterable[Row]:
        runs = evidence.runs(self.of)
        if not runs:
            yield Row(self.what, UNMEASURED)
            return
        found, over = _score(runs, self.measure)
        verdict = below(found, NEAR_ZERO)
        if len(runs) == 1:
            verdict = unless_seeds(verdict, found.value - NEAR_ZERO, evidence.noise(self.measure, runs))
        yield Row(self.what, verdict, second=shown(found, 3), over=over)


@dataclass(frozen=True)
class Spread:
    """How far two runs lie apart that are the same training in exact arithmetic: rounding's share, no claim.

    Of n pairs with differences d, √(Σd² / 2n): the standard deviation of one run. Pairs in which neither has
    anything left say nothing and are left out.
    """

    what: str
    pairs: tuple[tuple[Of, Of], ...]
    measure: str = SCORE

    def rows(self, evidence: Evidence) -> Iterable[Row]:
        squares = []
        for of_first, of_second in self.pairs:
            first, second = evidence.runs(of_first), evidence.runs(of_second)
            if first and second:
                name = measure_of(first[0], self.measure)
                scores = [runs[0].final[name] for runs in (first, second)]
                if any(scores):
                    squares.append((scores[0] - scores[1]) ** 2)
        if not squares:
            yield Row(self.what, UNMEASURED)
            return
        over = f"{len(squares)} pair{'' if len(squares) == 1 else 's'}"
        yield Row(self.what, "", second=f"{sqrt(mean(squares) / 2):.3f}", over=over)


def below(interval: Interval, bound: float) -> str:
    """Whether an interval lies below a bound, above it, or across it."""
    if interval.high < bound:
        return SUPPORTED
    return NOT_SUPPORTED if interval.low > bound else OPEN


def _score(runs: list[RunResult], measure: str) -> tuple[Interval, str]:
    """Over the seeds and items, where there are several seeds, else over the items; and what that is over."""
    return over_seeds(runs, measure), asked(runs, len(runs), len(items_of(runs[0], measure).values))


def shown(interval: Interval, digits: int, signed: bool = False) -> str:
    """E.g. ``−0.120 [−0.150, −0.090]``."""
    return interval.with_ends(f"{'+' if signed else ''}.{digits}f").replace("-", "−")


def _named(runs: list[RunResult], value: float, digits: int) -> str:
    """A score with the method and the rate that it is of."""
    run = runs[0]
    at = f" at {rate(run.record.config['train']['lr'])}" if run.record.steps else ""
    return f"{value:.{digits}f} ({run.label}{at})"


@dataclass(frozen=True)
class Counted:
    """Share of the base's parameters that a method trains, against what the paper says.

    Supported if the paper's number is within five points.
    """

    what: str
    overrides: tuple[str, ...]
    published: float

    def rows(self, evidence: Evidence) -> Iterable[Row]:
        from gdo_cli.config.build import load_run
        from gdo_cli.experiment.plan import counts

        share = counts(load_run(list(self.overrides), evidence.config_dir)).trainable_share
        near = abs(share - self.published) <= MARGIN
        yield Row(
            self.what,
            SUPPORTED if near else NOT_SUPPORTED,
            f"about {100 * self.published:.0f} % (paper)",
            f"{100 * share:.1f} %",
            over="exact",
        )


@dataclass(frozen=True)
class Ranks:
    """Effective rank of the change of up, layer by layer, of two runs, over all stages."""

    what: str
    first: Of
    second: Of

    def rows(self, evidence: Evidence) -> Iterable[Row]:
        found = [self._by_layer(evidence, of) for of in (self.first, self.second)]
        if not all(found):
            yield Row(self.what, UNMEASURED)
            return
        layers = sorted(found[0])
        changes = [found[1][n] - found[0][n] for n in layers]
        interval = statistics.average(changes, [1.0] * len(changes))
        first, second = (f"{mean(by_layer.values()):.0f}" for by_layer in found)
        over = f"{len(layers)} layers"
        yield Row(self.what, above(interval, 0), first, second, shown(interval, 0, signed=True), over)

    def _by_layer(self, evidence: Evidence, of: Of) -> dict[int, float]:
        values: dict[int, list[float]] = {}
        for run in evidence.runs(of):
            for line in run.metrics:
                if line["kind"] == "rank" and line["of"] == "weights" and line["module"] == "up_proj":
                    values.setdefault(int(line["layer"]), []).append(float(line["effective_rank"]))
        return {layer: mean(ranks) for layer, ranks in values.items()}


@dataclass(frozen=True)
class Vectors:
    """A number of ``gdo analyze fv`` of two methods; one is higher if the intervals do not meet."""

    what: str
    first: Of
    second: Of
    number: str

    def rows(self, evidence: Evidence) -> Iterable[Row]:
        found = []
        for of in (self.first, self.second):
            analyses = [run.analysis("fv") for run in evidence.runs(of)]
            values = [a["run"][self.number] for a in analyses if a]
            if not values:
                yield Row(self.what, UNMEASURED)
                return
            found.append(Interval(*(values[0][key] for key in ("value", "low", "high"))))
        digits = 1 if self.number == "overlap" else 2
        verdict = OPEN
        if found[1].low > found[0].high:
            verdict = SUPPORTED
        elif found[1].high < found[0].low:
            verdict = NOT_SUPPORTED
        first, second = (shown(interval, digits) for interval in found)
        yield Row(self.what, verdict, first, second, over="bootstrap over prompts")
