"""How much is left of what the untouched model could do: accuracies above chance, as shares of its own.

The retention index is the mean over probes of (accuracy − chance) / (untouched accuracy − chance): 1 where
nothing is lost, 0 where all that is left is guessing. Both models are asked the same items.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdo_cli.stats.outcomes import Mean

Values = Sequence[float]
# By how many of its standard errors the untouched model has to lie above chance. The interval of a ratio is
# bounded, and near the delta method's, where its denominator is several of them from zero (Fieller, 1954).
HEAD_ROOM = 4.0


@dataclass(frozen=True)
class Accuracies:
    """What two models got of the same items of a probe.

    Attributes:
        chance: the accuracy of guessing.
        before: 1 or 0 for each item, of the untouched model.
        after: the same of the other one.
    """

    chance: float
    before: Values
    after: Values


def has_head_room(before: Values, chance: float) -> bool:
    """Return whether the untouched model lies clearly above chance: else nothing can be lost."""
    above = float(np.mean(before)) - chance
    error = float(np.std(before, ddof=1)) / math.sqrt(len(before)) if len(before) > 1 else math.inf
    return above > 0 and above >= HEAD_ROOM * error


def retained(items: Accuracies) -> float:
    """Return (accuracy − chance) / (untouched accuracy − chance)."""
    above = float(np.mean(items.before)) - items.chance
    return (float(np.mean(items.after)) - items.chance) / above


def retention_index(probes: Sequence[Accuracies]) -> Mean:
    """Return the mean of what is retained of each probe, with its standard error over items.

    By the delta method: items of a probe are drawn together for both models, those of two probes apart.
    """
    values = [retained(probe) for probe in probes]
    squares = [float(np.square(_influences(p)).sum() / (len(p.after) - 1) / len(p.after)) for p in probes]
    n = sum(len(probe.after) for probe in probes)
    return Mean(sum(values) / len(values), math.sqrt(sum(squares)) / len(values), n)


def index_by_item(probes: Sequence[Accuracies]) -> list[float]:
    """Return a number for each item, whose mean is the index and whose spread is the index's error.

    So it can be treated as the mean of independent items, and compared item by item with another model's.
    """
    index = retention_index(probes)
    shares = [(index.n / len(probes) / len(probe.after), probe) for probe in probes]
    return [float(index.value + share * u) for share, probe in shares for u in _influences(probe)]


def describe_index(chances: Mapping[str, float], left_out: Mapping[str, str]) -> str:
    """Return what an index is over, and why other measures are not in it, for people."""
    over = ", ".join(f"{measure} (guessing {chance:g})" for measure, chance in chances.items())
    told = f"over {over}" if over else "over nothing: fewer than two probes have head-room"
    others = "; ".join(f"{measure} ({why})" for measure, why in left_out.items())
    return told + (f"; left out: {others}" if others else "")


def paired_accuracies(
    chances: Mapping[str, float],
    before: Iterable[Mapping[str, Any]],
    after: Iterable[Mapping[str, Any]],
) -> list[Accuracies] | None:
    """Return both models' items of each measure, from their predictions; None where one was not asked.

    Args:
        chances: what guessing gets of each measure (``arc_easy/likelihood``).
        before, after: records of items, with ``part``, ``item`` and an outcome under its name.
    """
    rows = list(before), list(after)
    found = []
    for measure, chance in chances.items():
        values = [items_of_measure(predictions, measure) for predictions in rows]
        if not all(values):
            return None
        found.append(Accuracies(chance, *values))
    return found


def items_of_measure(predictions: Iterable[Mapping[str, Any]], measure: str) -> list[float]:
    """Return what each item of a measure got, in their order."""
    part, _, key = measure.partition("/")
    rows = sorted((row for row in predictions if row["part"] == part), key=lambda row: int(row["item"]))
    return [float(row[key]) for row in rows]


def _influences(probe: Accuracies) -> NDArray[np.float64]:
    """What each item adds to the ratio, to the first order; they sum to zero."""
    before, after = np.asarray(probe.before, float), np.asarray(probe.after, float)
    above = before.mean() - probe.chance
    rest: NDArray[np.float64] = (after - probe.chance) - retained(probe) * (before - probe.chance)
    return rest / above
