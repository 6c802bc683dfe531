"""The runs that a claim is judged by, and differences between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy import stats

from gdo_cli.config.run_config import RunConfig
from gdo_cli.figures.experiments import FinishedRuns
from gdo_cli.runs.find import all_seeds, by_id
from gdo_cli.runs.items import change_over_seeds, items_of
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.intervals import LEVEL, seed_mean
from gdo_cli.stats.outcomes import Interval

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
        return float(self.deviation * runs**0.5 * stats.t.ppf((1 + LEVEL) / 2, self.freedom))


def seed_spread(groups: Sequence[Sequence[float]]) -> SeedSpread:
    """Of scores by configuration, each of two seeds or more: √(Σ (nᵢ − 1) sᵢ² / Σ (nᵢ − 1)), pooled."""
    freedom = sum(len(scores) - 1 for scores in groups)
    squares = sum((len(scores) - 1) * float(np.var(scores, ddof=1)) for scores in groups)
    return SeedSpread((squares / freedom) ** 0.5, freedom)


class Evidence:
    """Finished runs by experiment, each read once."""

    def __init__(self, results: Path, config_dir: Path | None = None) -> None:
        self.results = results
        self.config_dir = config_dir
        self._finished = FinishedRuns(results, config_dir)
        self._beside: dict[str, list[RunResult]] = {}

    def experiment(self, name: str) -> tuple[list[RunResult], list[RunConfig]]:
        """Its finished runs, and the points without one."""
        return self._finished.of(name, [])

    def runs(self, of: Of) -> list[RunResult]:
        """All finished seeds of one configuration, those of the experiment first.

        Where several are left, which differ in their learning rate, it is the one with the best task score
        on validation items late in training.
        """
        found = [
            run
            for run in self.experiment(of.experiment)[0]
            if all(str(run.setting(key)) == str(value) for key, value in of.settings.items())
        ]
        chosen = max(by_id(found).values(), key=_validation_score, default=[])
        beside = self._all_seeds(chosen[0]) if chosen else []
        return list({run.seed: run for run in [*beside, *chosen]}.values())

    def _all_seeds(self, run: RunResult) -> list[RunResult]:
        if run.id not in self._beside:
            self._beside[run.id] = all_seeds(run)
        return self._beside[run.id]

    def spread(self, measure: str, experiment: str = "seeds") -> SeedSpread | None:
        """How far an experiment's seeds lie apart, pooled over its methods; None where they do not tell."""
        groups = by_id(run for run in self.experiment(experiment)[0] if measure in run.final).values()
        several = [[run.final[measure] for run in seeds] for seeds in groups if len(seeds) > 1]
        return seed_spread(several) if several else None

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
    return not record.steps and "run" not in record.config["method"]


def measure_of(run: RunResult, measure: str) -> str:
    return run.task_score if measure == SCORE else measure


def difference(first: list[RunResult], second: list[RunResult], measure: str) -> Difference | None:
    """Over the seeds that both have and the items, if there are two seeds or more; else over the items of a
    run of each, of the same seed if they share one. The untouched model is the same with any seed.

    None if those were asked about other items.
    """
    name = measure_of(first[0], measure)
    before, after = ({run.seed: run for run in runs} for runs in (first, second))
    if _untouched(first):
        before = dict.fromkeys(after, first[0])
    elif _untouched(second):
        after = dict.fromkeys(before, second[0])
    seeds = sorted(before.keys() & after.keys())
    pairs = [(before[seed], after[seed]) for seed in seeds] or [(first[0], second[0])]
    items = [(items_of(one, name), items_of(other, name)) for one, other in pairs]
    ours, theirs = items[0]
    if any(found.identity != ours.identity for pair in items for found in pair):
        return None
    old, new = (mean(pair[side].final[name] for pair in pairs) for side in (0, 1))
    if len(pairs) == 1:
        interval = ours.difference(theirs)
    elif change := change_over_seeds(items):
        interval = change.interval
    else:
        interval = seed_mean([other.final[name] - one.final[name] for one, other in pairs])
    over = asked([run for pair in pairs for run in pair], len(pairs), len(ours.values))
    return Difference(old, new, interval, over, len(pairs))


def asked(runs: Sequence[RunResult], seeds: int, items: int) -> str:
    """E.g. ``3 seeds × 300 items``, and a word where processors differ, which round otherwise."""
    machines = {str(run.record.machine["gpu"] or run.record.machine["cpu"]) for run in runs}
    over = f"{seeds} seeds × {items:,} items" if seeds > 1 else f"{items:,} items"
    return over + (", two processors" if len(machines) > 1 else "")
