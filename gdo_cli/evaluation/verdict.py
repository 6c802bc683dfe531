"""Whether a model holds its contract, and has learnt its task: judged on items, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gdo_cli.evaluation.contract import Promise
from gdo_cli.stats.metrics import INDEX, Measure, measure_named
from gdo_cli.stats.noninferiority import Lost, measure_lost
from gdo_cli.stats.outcomes import Interval
from gdo_cli.stats.retention import index_by_item, paired_accuracies
from gdo_cli.support.errors import UserError

Predictions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """A promise, and what became of it.

    Attributes:
        before, after: the measure of the base model and of the other one, on the same items.
        broken: by measure, places of the items that the base model got right and the other one wrong.
    """

    promise: Promise
    before: float
    after: float
    lost: Lost
    broken: dict[str, list[int]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``kept``, ``lost`` or ``undecided``."""
        return self.lost.verdict


def judge(
    promises: Sequence[Promise],
    chances: Mapping[str, float],
    before: Predictions,
    after: Predictions,
    level: float,
) -> list[Verdict]:
    """Return a verdict for each promise, from what two models got of the same items.

    All promises are kept together at the level of each: the whole is kept only if every part is.

    Args:
        chances: what guessing gets of each measure that the retention index is over.
        before, after: a record for each item of the base model and of the other one.
    Raises:
        UserError: a measure that one of them was not asked, or other items.
    """
    return [_judge(promise, chances, before, after, level) for promise in promises]


def hold(verdicts: Sequence[Verdict]) -> str:
    """Return the verdict on the whole: ``kept`` if all are, ``lost`` if any is, else ``undecided``."""
    found = {verdict.verdict for verdict in verdicts}
    return next((worst for worst in ("lost", "undecided") if worst in found), "kept")


def share_used(verdicts: Sequence[Verdict]) -> float:
    """Return what was lost at its upper bound, as a share of what is tolerated, of the worst promise.

    Up to 1 the contract is kept. Where nothing is tolerated it is 0, or 2 if something was lost.
    """

    def of(lost: Lost) -> float:
        if lost.tolerated <= 0:
            return 0.0 if lost.verdict == "kept" else 2.0
        return lost.high / lost.tolerated

    return max(of(verdict.lost) for verdict in verdicts)


def _judge(
    promise: Promise, chances: Mapping[str, float], before: Predictions, after: Predictions, level: float
) -> Verdict:
    if promise.measure == INDEX:
        return _judge_index(promise, chances, before, after, level)
    part, _, _ = promise.measure.partition("/")
    measure = measure_named(promise.measure)
    sides = [_items(rows, part, measure) for rows in (before, after)]
    for (values, _), whose in zip(sides, ("the base model", "the other one"), strict=True):
        if not values:
            raise UserError(
                f"keep.tolerances.{promise.measure}: {whose} was not asked; ask probe {part} of both"
            )
    (old, weights), (new, others) = sides
    if weights != others:
        raise UserError(f"keep.tolerances.{promise.measure}: the two models were asked other items of it")
    sign = 1.0 if measure.higher_is_better else -1.0
    lost = measure_lost(
        [sign * v for v in old], [sign * v for v in new], weights, promise.amount, level, promise.share
    )
    was = _mean(old, weights)
    broken = {promise.measure: _broken(old, new)} if measure.higher_is_better else {}
    return Verdict(promise, was, was - sign * lost.value, lost, broken)


def _judge_index(
    promise: Promise, chances: Mapping[str, float], before: Predictions, after: Predictions, level: float
) -> Verdict:
    probes = paired_accuracies(chances, before, after)
    if not probes:
        raise UserError(
            f"keep.tolerances.{INDEX}: there is no index here: fewer than two of its probes were asked, or "
            "the base model is too near guessing in them; promise other measures"
        )
    values = index_by_item(probes)
    ones = [1.0] * len(values)  # the index of the base model itself
    lost = measure_lost(ones, values, ones, promise.amount + promise.share, level)
    broken = {m: _broken(p.before, p.after) for m, p in zip(chances, probes, strict=True)}
    return Verdict(promise, 1.0, 1.0 - lost.value, lost, broken)


def _broken(before: Sequence[float], after: Sequence[float]) -> list[int]:
    return [place for place, (was, now) in enumerate(zip(before, after, strict=True)) if was > now]


def _items(rows: Predictions, part: str, measure: Measure) -> tuple[list[float], list[float]]:
    """What a model got of each item of a measure, and the items' weights."""
    asked = sorted(
        (r for r in rows if r["part"] == part and measure.field in r), key=lambda r: int(r["item"])
    )
    weights = [float(row.get(f"{measure.field}_weight", 1)) for row in asked]
    return [float(row[measure.field]) for row in asked], weights


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


# --------------------------------------------------------------------------------------- the task itself


@dataclass(frozen=True)
class Learnt:
    """What became of the task.

    Attributes:
        before, after: its measure before and after training, on the same items.
        test: on test items; the same as ``after`` where these are them.
        guessing: what always giving the commonest answer gets; None where that is unknown or means nothing.
        p: of the one-sided test that nothing was learnt; None for a score of a whole corpus.
    """

    measure: str
    before: float
    after: float
    test: Interval
    guessing: float | None
    p: float | None

    def is_learnt(self, level: float) -> bool:
        """Return whether the score is clearly better than before, and than guessing."""
        gained = self.after - self.before
        if not measure_named(self.measure).higher_is_better:
            gained = -gained
        above = self.guessing is None or self.test.low > self.guessing
        return gained > 0 and above and (self.p is None or self.p <= level)
