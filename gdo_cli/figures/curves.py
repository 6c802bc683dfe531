"""Retention (top) and the new task (bottom) against training steps: Figures 2, 3, 4, 6, 7 and 8."""

from __future__ import annotations

from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import (
    RC,
    Line,
    draw_guessing,
    errors_told,
    field,
    from_zero,
    label_of,
    legend_above,
    line_of,
    line_styles,
    name_of,
    new_figure,
    require_measure,
    require_one_setting,
    sources,
    standard_error,
    under,
)
from gdo_cli.runs.record import RETENTION, RunResult


def draw(
    runs: list[RunResult], columns: str = "task", lines: str = "method", retention: str = RETENTION
) -> Drawing:
    """Draw one column per value of the setting ``columns``, one line per value of ``lines``.

    A line is the mean over seeds with a band of its standard error. What is measured once, as where nothing
    trains, is a level; a column that holds nothing else is left out beside others that do. The dash-dotted
    line is what guessing gets, on test items. ``retention`` names the top metric.
    """
    require_measure(retention, (key for run in runs for line in run.evaluations for key in line))
    groups = _in_order(runs, columns)
    curved = {v: members for v, members in groups.items() if any(len(r.evaluations) > 1 for r in members)}
    groups = curved or groups
    looks = line_styles(runs, [lines])  # over all runs: a line looks the same in every column
    points: list[dict[str, Any]] = []
    with rc_context(RC):
        figure = new_figure(max(3.8, 2.7 * len(groups)), 5.6)
        axes = figure.subplots(2, len(groups), sharex="col", squeeze=False)
        for column, (value, members) in enumerate(groups.items()):
            score = members[0].task_score
            series = _in_order(members, lines)
            for same in series.values():
                require_one_setting(same, lines=lines, columns=columns)
            for row, metric in enumerate((retention, score)):
                _panel(axes[row, column], series, (lines, looks), metric, points, str(value))
            draw_guessing(axes[1, column], members, score)
            for ax in axes[:, column]:
                from_zero(ax)
            axes[0, column].set_title(label_of(members[0], columns))
            axes[1, column].set_xlabel("training steps")
            axes[1, column].set_ylabel(f"New task: {name_of(score)}")
        axes[0, 0].set_ylabel(f"Original domain:\n{name_of(retention)}")
        shown = {
            label: handle
            for ax in axes.flat
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        legend_above(figure, list(shown.values()), list(shown))
        under(figure, f"{errors_told('bands', runs)} · {sources(runs)}")
    return Drawing(figure, points)


def _in_order(runs: list[RunResult], key: str) -> dict[Any, list[RunResult]]:
    """Runs by the value of a setting, in the order in which the values first come."""
    groups: dict[Any, list[RunResult]] = {}
    for run in runs:
        value = field(run, key)
        groups.setdefault(str(value) if isinstance(value, list) else value, []).append(run)
    return groups


def _panel(
    ax: Axes,
    lines: dict[Any, list[RunResult]],
    told: tuple[str, dict[str, Line]],
    metric: str,
    points: list[dict[str, Any]],
    column: str,
) -> None:
    apart, looks = told
    for runs in lines.values():
        label = label_of(runs[0], apart)
        series = over_seeds(runs, metric)
        if series:
            _line(ax, series, label, looks[line_of(runs[0], [apart])])
        points += [
            {"panel": column, "line": label, "metric": metric}
            | {"step": step, "value": value, "se": error, "seeds": n}
            for step, value, error, n in series
        ]


def over_seeds(runs: list[RunResult], metric: str) -> list[tuple[int, float, float, int]]:
    """(step, mean over seeds, standard error, number of seeds) at every evaluation with the metric."""
    by_step: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        for line in run.evaluations:
            if metric in line:
                by_step.setdefault(int(line["step"]), []).append(line)
    return [
        (step, mean(line[metric] for line in lines), standard_error(lines, metric), len(lines))
        for step, lines in sorted(by_step.items())
    ]


def _line(ax: Axes, series: list[tuple[int, float, float, int]], label: str, look: Line) -> None:
    steps, values, errors, _ = zip(*series, strict=True)
    if len(series) == 1:
        ax.axhline(values[0], label=label, color=look.color, linestyle=look.linestyle)
        return
    ax.plot(steps, values, label=label, color=look.color, marker=look.marker, linestyle=look.linestyle)
    low = [v - e for v, e in zip(values, errors, strict=True)]
    high = [v + e for v, e in zip(values, errors, strict=True)]
    ax.fill_between(steps, low, high, color=look.color, alpha=0.15, linewidth=0)
