"""What the untouched model got of each item, and how much of it another one has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gdo_cli.probes.base import Probe
from gdo_cli.stats.metrics import INDEX, LEAST
from gdo_cli.stats.retention import (
    describe_index,
    has_head_room,
    items_of_measure,
    paired_accuracies,
    retention_index,
)

Predictions = Sequence[Mapping[str, Any]]


def counted(probes: Mapping[str, Probe]) -> dict[str, float]:
    """Return the measures that the retention index may be over, with what guessing gets of each.

    None, where there are too few for an index.
    """
    found = {f"{name}/{p.headline}": p.chance for name, p in probes.items() if p.chance is not None}
    return found if len(found) >= LEAST else {}


class Untouched:
    """What the untouched model got of each item of the probes.

    Attributes:
        predictions: a record for each.
        chances: of the measures that the retention index is over, what guessing gets.
        left_out: why others are not: the untouched model is too near chance to lose anything.
    """

    def __init__(self, probes: Mapping[str, Probe], predictions: Predictions) -> None:
        self.predictions = [row for row in predictions if row["part"] in probes]
        self.chances: dict[str, float] = {}
        self.left_out: dict[str, str] = {}
        self.counted = counted(probes)
        for measure, chance in self.counted.items():
            values = items_of_measure(self.predictions, measure)
            if values and has_head_room(values, chance):
                self.chances[measure] = chance
            else:
                reached = f"{np.mean(values):.3f} of {len(values)} items" if values else "not asked"
                self.left_out[measure] = f"untouched {reached}, guessing {chance:g}"
        if len(self.chances) < LEAST:
            self.chances = {}

    def retention(self, predictions: Predictions) -> dict[str, float]:
        """Return the retention index of another model, of which the same items were asked; or nothing."""
        probes = paired_accuracies(self.chances, self.predictions, predictions)
        if not probes:
            return {}
        found = retention_index(probes)
        return {INDEX: found.value, f"{INDEX}_se": found.se}

    def record(self) -> dict[str, Any]:
        """Return what the index is over, and what it is not, for the record of a run."""
        return {"chances": self.chances, "left_out": self.left_out}

    def __str__(self) -> str:
        return f"retention index {describe_index(self.chances, self.left_out)}"
