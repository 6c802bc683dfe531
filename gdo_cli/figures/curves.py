"""Retention (top) and the new task (bottom) against training steps: Figures 2, 3, 4, 6, 7 and 8."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gdo_cli.figures import groups, style
from gdo_cli.runs.record import RETENTION, RunResult


@style.styled
def draw(
    runs: list[RunResult], columns: str = "task", lines: str = "method", retention: str = RETENTION
) -> style.Drawing:
    """Draw one column per value of the setting ``columns``, one line per value of ``lines``.

    A line is the mean over seeds with a band of its standard error. What is measured once, as where nothing
    trains, is a level; a column that holds nothing else is left out beside others that do. The dash-dotted
    line is what guessing gets, on test items. ``retention`` names the top metric.
    """
    groups.require_measure(retention, (key for run in runs for line in run.evaluations for key in line))
    every = groups.by_setting(runs, columns)
    curved = {v: members for v, members in every.items() if any(len(r.evaluations) > 1 for r in members)}
    shown = curved or every
    looks = style.line_styles(runs, [lines])  # over all runs: a line looks the same in every column
    points: list[dict[str, Any]] = []
    figure, axes = style.panels(max(3.8, 2.7 * len(shown)), 5.6, 2, len(shown), sharex="col")
    for (above, below), (value, members) in zip(axes.T, shown.items(), strict=True):
        score = members[0].task_score
        series = groups.by_setting(members, lines).values()
        for same in series:
            groups.require_one_setting(same, lines=lines, columns=columns)
        for ax, metric in ((above, retention), (below, score)):
            for same in series:
                own, label = _over_seeds(same, metric), groups.label_of(same[0], lines)
                _line(ax, own, label, looks[groups.line_of(same[0], [lines])])
                points += [{"panel": value, "line": label, "metric": metric} | point for point in own]
        style.draw_guessing(below, members, score)
        style.from_zero(above)
        style.from_zero(below)
        above.set_title(groups.label_of(members[0], columns))
        below.set(xlabel="training steps", ylabel=f"New task: {style.name_of(score)}")
    axes[0, 0].set_ylabel(f"Original domain:\n{style.name_of(retention)}")
    style.legend(figure, axes.flat)
    style.under(figure, runs, groups.errors_told("bands", runs))
    return style.Drawing(figure, points)


def _over_seeds(runs: list[RunResult], metric: str) -> list[dict[str, Any]]:
    """A record for every evaluation with the metric."""
    measured = (line for run in runs for line in run.evaluations if metric in line)
    by_step = groups.grouped(measured, lambda line: int(line["step"]))
    return [{"step": step} | groups.over_seeds(lines, metric) for step, lines in sorted(by_step.items())]


def _line(ax: Axes, points: list[dict[str, Any]], label: str, look: style.Line) -> None:
    steps, values, errors = (np.array([point[key] for point in points]) for key in ("step", "value", "se"))
    if len(points) == 1:
        ax.axhline(values[0], label=label, color=look.color, linestyle=look.linestyle)
    elif points:
        ax.plot(steps, values, label=label, **vars(look))
        ax.fill_between(steps, values - errors, values + errors, color=look.color, alpha=0.15, linewidth=0)
