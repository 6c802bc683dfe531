"""What is kept against what is learnt, over learning rates and steps: one frontier per method."""

from __future__ import annotations

from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import (
    GREY,
    RC,
    TASKS,
    Line,
    errors_told,
    from_zero,
    line_of,
    line_styles,
    name_of,
    new_figure,
    require_measure,
    sources,
    standard_error,
    text_width,
    under,
)
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats.frontier import area, frontier, matched_score, retention_at, undominated

Points = list[dict[str, Any]]


def draw(runs: list[RunResult], lines: str | list[str] = "method", retention: str = RETENTION) -> Drawing:
    """Draw a column per task: every evaluation of every run on validation items, one colour per method.

    Points that another one of the method beats in both are faint; the line runs through the others and is
    straight where nothing was measured. A panel begins a little left of the first point that a line runs
    through: the untouched model is left out of it where all methods keep as much at a higher score. The
    dotted line is the highest score that all methods reach: the table says what each keeps there, and a
    standard error of the score above and below. ``lines`` names the setting, or the settings, that tell
    lines apart, ``retention`` what is kept; seeds are averaged. The best of many means over seeds lies lower
    than the best of as many single runs, so lines of as many seeds alone can be compared: the table says
    how many there are.
    """
    require_measure(retention, (key for run in runs for line in run.evaluations for key in line))
    by_task: dict[str, list[RunResult]] = {}
    for run in runs:
        by_task.setdefault(run.name["task"], []).append(run)
    points: Points = []
    keys = [lines] if isinstance(lines, str) else lines
    looks = line_styles(runs, keys)
    columns = ["task", "method", "seeds", "points", "on the frontier", "area", "best score"]
    table = [[*columns, "kept at the matched score [a standard error above, below]"]]
    with rc_context(RC):
        figure = new_figure(0.8 + 4 * len(by_task) + text_width(looks), 4)
        axes = figure.subplots(1, len(by_task), squeeze=False)[0]
        for ax, (task, members) in zip(axes, by_task.items(), strict=True):
            found = _lines(members, keys, retention)
            table += _panel(ax, task, found, looks)
            points += [point for line in found.values() for point in line]
            ax.set_title(TASKS.get(task, task))
            ax.set_xlabel(f"New task: {name_of(members[0].task_score)} (validation)")
        axes[0].set_ylabel(f"Kept: {name_of(retention)}")
        handles = {
            label: handle
            for ax in axes
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right upper")
        under(figure, f"{errors_told('cross', runs)}, their mean · {sources(runs)}")
    return Drawing(figure, points, table)


def _lines(runs: list[RunResult], keys: list[str], retention: str) -> dict[str, Points]:
    """By method, a record for each setting and step, the mean over seeds."""
    cells: dict[tuple[str, str, int], list[tuple[RunResult, dict[str, Any]]]] = {}
    for run in runs:
        for scores in run.evaluations:
            if retention in scores and run.task_score in scores:
                cells.setdefault((line_of(run, keys), run.id, scores["step"]), []).append((run, scores))
    lines: dict[str, Points] = {}
    for (value, identity, step), found in cells.items():
        run = found[0][0]
        record: dict[str, Any] = {
            "task": run.name["task"],
            "line": value,
            "label": value.replace(run.name["method"], run.label, 1) if "method" in keys else value,
            "id": identity,
            "lr": run.record.config["train"]["lr"] if run.record.steps else None,
            "step": step,
            "seeds": len(found),
            "score": mean(line[run.task_score] for run, line in found),
            "retention": mean(line[retention] for _, line in found),
            "score_se": standard_error([line for _, line in found], run.task_score),
            "retention_se": standard_error([line for _, line in found], retention),
        }
        lines.setdefault(value, []).append(record)
    for line in lines.values():
        best = undominated([(p["score"], p["retention"]) for p in line])
        for point, on_frontier in zip(line, best, strict=True):
            point["on_frontier"] = on_frontier
    return lines


def _panel(ax: Axes, task: str, lines: dict[str, Points], looks: dict[str, Line]) -> list[list[str]]:
    """Return the lines of a task; returns their rows of the table, the largest area first."""
    places = {key: [(p["score"], p["retention"]) for p in line] for key, line in lines.items()}
    matched = matched_score(list(places.values()))
    trained = [point for line in lines.values() for point in line if point["score"] and point["retention"]]
    error, kept_error = (mean([p[f"{name}_se"] for p in trained] or [0.0]) for name in ("score", "retention"))
    ax.axvline(matched, color=GREY, linestyle=":", linewidth=1)
    rows = []
    _begin_at_lines(ax, places)
    for key, found in places.items():
        label = lines[key][0]["label"]
        _line(ax, found, looks[key], label)
        best = frontier(found)
        kept = [retention_at(found, score) for score in (matched, matched + error, matched - error)]
        at, above, below = ("–" if n is None else f"{n:.3f}" for n in kept)
        numbers = [f"{area(found):.3f}", f"{best[-1][0]:.3f}", f"{at} [{above}, {below}]"]
        counts = [_seeds(lines[key]), str(len(found)), str(len(best))]
        rows.append((area(found), [task, label, *counts, *numbers]))
    from_zero(ax)
    if trained:
        _typical_error(ax, error, kept_error)
    return [row for _, row in sorted(rows, key=lambda item: -item[0])]


def _begin_at_lines(ax: Axes, places: dict[str, list[tuple[float, float]]]) -> None:
    scores = [score for found in places.values() for score, _ in frontier(found)]
    margin = 0.05 * ((max(scores) - min(scores)) or 1.0)
    ax.set_xlim(min(scores) - margin, max(scores) + margin)


def _seeds(line: Points) -> str:
    """``1``, or ``1 to 3`` where its points are means over different numbers of seeds."""
    counts = [point["seeds"] for point in line]
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _typical_error(ax: Axes, score: float, retention: float) -> None:
    """A cross in the corner: the mean standard error, for the eye."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    place = (left + 0.04 * (right - left) + score, bottom + 0.04 * (top - bottom) + retention)
    ax.errorbar(*place, xerr=score, yerr=retention, color=GREY, elinewidth=0.8, label="standard error")


def _line(ax: Axes, points: list[tuple[float, float]], look: Line, label: str) -> None:
    best = frontier(points)
    left, _ = ax.get_xlim()
    beaten = [point for point in points if point not in best and point[0] >= left]
    if beaten:
        faint: dict[str, Any] = {"alpha": 0.25, "markeredgewidth": 0, "clip_on": False}
        ax.plot(*zip(*beaten, strict=True), look.marker, color=look.color, **faint)
    ax.plot(
        *zip(*best, strict=True),
        color=look.color,
        marker=look.marker,
        linestyle=look.linestyle,
        label=label,
    )
