"""The search: trials as ordinary runs, and the way back to the base for those that broke the contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gdo_cli.commands.tune.study import RUN, Study
from gdo_cli.config.build import load_run
from gdo_cli.config.options import quoted
from gdo_cli.config.run_config import RunConfig
from gdo_cli.config.tune import Tuning
from gdo_cli.evaluation.verdict import Verdict, hold, judge, share_used
from gdo_cli.experiment.run import run as run
from gdo_cli.runs.folder import CHECKPOINT, Busy, RunFolder
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.metrics import Metric
from gdo_cli.support.console import note, warn
from gdo_cli.support.errors import RunFailed, UserError

Measure = Callable[[RunConfig], RunResult | None]


class Pruned(RunFailed):
    """A trial that does worse than others did at the same step."""


@dataclass(frozen=True)
class Candidate:
    """A model that a search made.

    Attributes:
        trial: the number of its trial.
        words: what tells its trial from others, as overrides.
        alpha: how far from the base it lies on the straight way to the trained weights; 1 is all of it.
        score: on validation items, the higher the better.
        verdicts: on the contract.
    """

    trial: int
    words: list[str]
    alpha: float
    run: RunResult
    score: float
    verdicts: list[Verdict]

    @property
    def kept(self) -> str:
        return hold(self.verdicts)

    @property
    def used(self) -> float:
        """The share of what is tolerated that was lost, of the worst promise; see :func:`share_used`."""
        return share_used(self.verdicts)


def search(tuning: Tuning) -> list[Candidate]:
    """Run trials until there are enough, and return all models that were made, in the order of their trials.

    Raises:
        UserError: every point is impossible, or the storage is of no use.
    """
    study, began = Study(tuning), time.monotonic()
    hours = tuning.config.hours
    study.revive()
    while study.begun < tuning.config.trials:
        if hours is not None and time.monotonic() - began >= 3600 * hours:
            note(f"{hours:g} hours are over: {study.begun} trials")
            break
        if len(study.failures()) >= 3 * tuning.config.trials:
            break
        _try_one(study, tuning)
    failures = study.failures()
    if failures and not study.runs():
        raise UserError(f"no trial came to an end; the last one: {list(failures.values())[-1]}")
    found = [c for number, path in study.runs().items() for c in _candidates(number, path, tuning)]
    if not found:
        raise UserError("no trial has been finished yet; run the same command again")
    return found


def _try_one(study: Study, tuning: Tuning) -> None:
    """Ask for a point and run it; what goes wrong with it ends the trial, not the search."""
    trial, point = study.ask()
    words = tuning.overrides(point)
    note(f"trial {trial.number + 1}, {study.begun} of {tuning.config.trials}: {' '.join(words)}")

    def watch(step: int, score: float) -> None:
        trial.report(score, step)
        if trial.should_prune():
            raise Pruned(f"worse than other trials after step {step}")

    try:
        config = tuning.point(point)
        trial.set_user_attr(RUN, str(config.path))
        done = candidate(trial.number, words, run(config, watch=watch), tuning)
        best = max([done, *way_back(done, tuning, run)], key=merit)
    except Pruned as pruned:
        note(f"trial ended: {pruned}")
        (config.path / CHECKPOINT).unlink(missing_ok=True)
        study.prune(trial)
    except Busy:
        study.fail(trial, "another process is at it")
    except (RunFailed, UserError) as error:
        warn(f"trial {trial.number + 1}: {error}")
        study.fail(trial, str(error))
    else:
        study.tell(trial, best.score, best.used - 1)


def merit(candidate: Candidate) -> tuple[bool, float, float]:
    """What models are compared by: whether they hold the contract, their score, what they lost."""
    held = candidate.kept == "kept"
    return held, candidate.score if held else -candidate.used, -candidate.used


def candidate(
    number: int, words: list[str], done: RunResult, tuning: Tuning, alpha: float = 1.0
) -> Candidate:
    """Return a finished run as a model of the search, judged by its contract."""
    config = tuning.first
    promises = tuning.contract.promises(config.probe)
    chances = done.record.data.get("retention", {}).get("chances", {})
    verdicts = judge(promises, chances, done.untouched, done.predictions, tuning.contract.level)
    return Candidate(number, words, alpha, done, _score(done, config.task.metric), verdicts)


def _score(done: RunResult, metric: Metric) -> float:
    """The task's score on validation items of the weights that the run ended with, the higher the better."""
    return float(done.ended_with[metric.key]) * (1 if metric.higher_is_better else -1)


# -------------------------------------------------------------------------------- the way back to the base


def way_back(trained: Candidate, tuning: Tuning, measure: Measure) -> Iterator[Candidate]:
    """Measure points on the straight way between the base and weights that broke the contract, by bisection.

    The base holds it, so between them lies a last point that does (WiSE-FT, Wortsman et al., 2022).

    Args:
        measure: runs a configuration, or finds its result; None ends the search.
    """
    holds, breaks = 0.0, 1.0
    for _ in range(tuning.config.rescue if trained.kept != "kept" else 0):
        alpha = (holds + breaks) / 2
        done = measure(_between(trained, alpha, tuning))
        if done is None:
            return
        found = candidate(trained.trial, trained.words, done, tuning, alpha)
        yield found
        holds, breaks = (alpha, breaks) if found.kept == "kept" else (holds, alpha)


def _between(trained: Candidate, alpha: float, tuning: Tuning) -> RunConfig:
    """The run that measures a point between the base and a trial's weights."""
    fixed = [word for word in tuning.words if word.partition("=")[0] not in ("method", "layers")]
    fixed = [word for word in fixed if not word.startswith("method.")]
    way = ["method=wise_ft", f"method.run={quoted(str(trained.run.path))}", f"method.alpha={alpha:g}"]
    return load_run([*fixed, *way, "evaluation.final_items=0"], tuning.composer)


def _candidates(number: int, path: Path, tuning: Tuning) -> list[Candidate]:
    """All models of a trial that there are: the run, and the points on its way back that were measured."""
    done = RunFolder(path).load()
    if done is None:
        return []
    keys = {dimension.key for dimension in tuning.space}
    words = [word for word in done.record.overrides if word.partition("=")[0] in keys]
    trained = candidate(number, words, done, tuning)
    return [trained, *way_back(trained, tuning, lambda config: RunFolder(config.path).load())]
