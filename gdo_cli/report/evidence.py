"""The runs that a claim is judged by, and differences between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from gdo_cli.analysis import statistics
from gdo_cli.analysis.statistics import Interval
from gdo_cli.compare import items_of
from gdo_cli.figures.style import field
from gdo_cli.finished import finished
from gdo_cli.results import RunResult, by_id
from gdo_cli.schema import RunConfig

SCORE = "score"  # stands for the task's own measure


@dataclass(frozen=True)
class Of:
    """Runs of an experiment with these settings, by dotted name: ``{"method": "sft", "train.lr": 1e-3}``."""

    experiment: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """Second minus first, with its 95 % interval, and what that is over."""

    first: float
    second: float
    interval: Interval
    over: str


class Evidence:
    """Finished runs by experiment, each read once."""

    def __init__(self, results: Path, config_dir: Path | None = None) -> None:
        self.results = results
        self.config_dir = config_dir
        self._read: dict[str, tuple[list[RunResult], list[RunConfig]]] = {}

    def experiment(self, name: str) -> tuple[list[RunResult], list[RunConfig]]:
        """Its finished runs, and the points without one."""
        if name not in self._read:
            self._read[name] = finished(name, [], self.results, self.config_dir)
        return self._read[name]

    def runs(self, of: Of) -> list[RunResult]:
        """All seeds of one configuration.

        Where several are left, which differ in their learning rate, it is the one with the best task score
        on validation items late in training.
        """
        found = [
            run
            for run in self.experiment(of.experiment)[0]
            if all(str(field(run, key)) == str(value) for key, value in of.settings.items())
        ]
        return max(by_id(found).values(), key=_validation_score, default=[])


def _validation_score(seeds: list[RunResult]) -> float:
    return mean(run.validation_score for run in seeds)


def measure_of(run: RunResult, measure: str) -> str:
    return run.task_score if measure == SCORE else measure


def difference(first: list[RunResult], second: list[RunResult], measure: str) -> Difference | None:
    """Over the seeds that both have, if there are two or more; else over the items of their first runs.

    None if those were asked about other items.
    """
    name = measure_of(first[0], measure)
    before, after = ({run.seed: run for run in runs} for runs in (first, second))
    seeds = sorted(before.keys() & after.keys())
    if len(seeds) > 1:
        old, new = ({seed: runs[seed].final[name] for seed in seeds} for runs in (before, after))
        change = statistics.seed_change(old, new)
        return Difference(mean(old.values()), mean(new.values()), change, f"{len(seeds)} seeds")
    ours, theirs = items_of(first[0], name), items_of(second[0], name)
    if ours.identity != theirs.identity:
        return None
    over = f"{len(ours.values):,} items"
    return Difference(first[0].final[name], second[0].final[name], ours.difference(theirs), over)
