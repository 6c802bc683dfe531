"""What a run has kept at a given task score, or at a given distance from the base, read off its evaluations.

Runs of as many steps have learnt and moved by different amounts; these compare like with like.
"""

from __future__ import annotations

from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats.frontier import kept_on_reaching
from gdo_cli.stats.metrics import DISTANCE, measure_named


def kept_at_score(run: RunResult, score: float, retention: str = RETENTION) -> float | None:
    """Return the retention where the task's score on validation items first reaches ``score``.

    None if it never does; interpolated between evaluations. Where less is better, it has to fall to it.
    """
    sign = 1.0 if measure_named(run.task_score).higher_is_better else -1.0
    return _kept_at(run, run.task_score, sign, sign * score, retention)


def kept_at_distance(run: RunResult, distance: float, retention: str = RETENTION) -> float | None:
    """Return the retention where the trained matrices first are as far from where they began.

    Args:
        distance: the norm of their update by their own norm, all of them together.
    Returns:
        None if they never are, or if the run, of an earlier version, did not record it.
    """
    return _kept_at(run, DISTANCE, 1.0, distance, retention)


def _kept_at(run: RunResult, measure: str, sign: float, target: float, retention: str) -> float | None:
    both = [line for line in run.evaluations if measure in line and retention in line]
    reached = [sign * float(line[measure]) for line in both]
    return kept_on_reaching(reached, [float(line[retention]) for line in both], target)
