"""The runs that a claim is judged by, and differences between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from gdo_cli.analysis import statistics
from gdo_cli.analysis.statistics import Interval, SeedSpread
from gdo_cli.compare import items_of
from gdo_cli.figures.style import field
from gdo_cli.finished import finished
from gdo_cli.results import RunResult, all_seeds, by_id
from gdo_cli.schema import RunConfig

SCORE = "score"  # stands for the task's own measure


@dataclass(frozen=True)
class Of:
    """Runs of an experiment with these settings, by dotted name: ``{"method": "sft", "train.lr": 1e-3}``."""

    experiment: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """Second minus first, with its 95 % interval, what that is over, and of how many seeds."""

    first: float
    second: float
    interval: Interval
    over: str
    seeds: int


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
        """All finished seeds of one configuration, those of the experiment first.

        Where several are left, which differ in their learning rate, it is the one with the best task score
        on validation items late in training.
        """
        found = [
            run
            for run in self.experiment(of.experiment)[0]
            if all(str(field(run, key)) == str(value) for key, value in of.settings.items())
        ]
        chosen = max(by_id(found).values(), key=_validation_score, default=[])
        return list({run.seed: run for first in chosen for run in [*all_seeds(first), *chosen]}.values())

    def spread(self, measure: str) -> SeedSpread | None:
        """How far the seeds of `seeds` lie apart, pooled over its methods; None where they do not tell."""
        groups = by_id(run for run in self.experiment("seeds")[0] if measure in run.final).values()
        several = [[run.final[measure] for run in seeds] for seeds in groups if len(seeds) > 1]
        return statistics.seed_spread(several) if several else None

    def noise(self, measure: str, *sides: list[RunResult]) -> float:
        """How far a difference has to reach for other seeds not to turn it around; 0 where that is unknown.

        The untouched model has no seeds.
        """
        spread = self.spread(measure)
        return spread.apart(sum(not _untouched(side) for side in sides)) if spread else 0.0


def _validation_score(seeds: list[RunResult]) -> float:
    return mean(run.validation_score for run in seeds)


def _untouched(runs: list[RunResult]) -> bool:
    """Whether they are the base itself: neither trained nor made of a run that was."""
    record = runs[0].record
    return not record["steps"] and "run" not in record["config"]["method"]


def measure_of(run: RunResult, measure: str) -> str:
    return run.task_score if measure == SCORE else measure


def difference(first: list[RunResult], second: list[RunResult], measure: str) -> Difference | None:
    """Over the seeds that both have, if there are two or more; else over the items of a run of each, of
    the same seed if they share one. The untouched model is the same with any seed.

    None if those were asked about other items.
    """
    name = measure_of(first[0], measure)
    before, after = ({run.seed: run for run in runs} for runs in (first, second))
    if _untouched(first):
        before = dict.fromkeys(after, first[0])
    elif _untouched(second):
        after = dict.fromkeys(before, second[0])
    seeds = sorted(before.keys() & after.keys())
    if len(seeds) > 1:
        old, new = ({seed: runs[seed].final[name] for seed in seeds} for runs in (before, after))
        change = statistics.seed_change(old, new)
        return Difference(mean(old.values()), mean(new.values()), change, f"{len(seeds)} seeds", len(seeds))
    one, other = (before[seeds[0]], after[seeds[0]]) if seeds else (first[0], second[0])
    ours, theirs = items_of(one, name), items_of(other, name)
    if ours.identity != theirs.identity:
        return None
    over = f"{len(ours.values):,} items"
    return Difference(one.final[name], other.final[name], ours.difference(theirs), over, 1)
