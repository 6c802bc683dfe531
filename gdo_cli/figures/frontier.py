"""What is kept against what is learnt, over learning rates and steps: one frontier per method."""

from __future__ import annotations

from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from gdo_cli.figures import groups, style
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats.frontier import Point, area, frontier, matched_score, retention_at, undominated

Lines = dict[str, list[dict[str, Any]]]
HEADING = ["task", "method", "seeds", "points", "on the frontier", "area", "best score"]
HEADING += ["kept at the matched score [a standard error above, below]"]


@style.styled
def draw(
    runs: list[RunResult], lines: str | list[str] = "method", retention: str = RETENTION
) -> style.Drawing:
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
    groups.require_measure(retention, (key for run in runs for line in run.evaluations for key in line))
    keys = [lines] if isinstance(lines, str) else lines
    by_task = groups.by_setting(runs, "task")
    looks = style.line_styles(runs, keys)
    points: list[dict[str, Any]] = []
    table = [HEADING]
    figure, (axes,) = style.panels(0.8 + 4 * len(by_task) + style.text_width(looks), 4, 1, len(by_task))
    for ax, (task, members) in zip(axes, by_task.items(), strict=True):
        found = _lines(members, keys, retention)
        table += _panel(ax, task, found, looks)
        points += [point for line in found.values() for point in line]
        score = style.name_of(members[0].task_score)
        ax.set(title=groups.named("task", task), xlabel=f"New task: {score} (validation)")
    axes[0].set_ylabel(f"Kept: {style.name_of(retention)}")
    style.legend(figure, axes, "outside right upper", columns=1)
    style.under(figure, runs, f"{groups.errors_told('cross', runs)}, their mean")
    return style.Drawing(figure, points, table)


def _lines(runs: list[RunResult], keys: list[str], retention: str) -> Lines:
    """By method, a record for each setting and step, the mean over seeds."""
    measured = [
        (run, scores)
        for run in runs
        for scores in run.evaluations
        if retention in scores and run.task_score in scores
    ]
    lines: Lines = {}
    for (value, identity, step), seeds in groups.grouped(
        measured, lambda found: (groups.line_of(found[0], keys), found[0].id, found[1]["step"])
    ).items():
        run = seeds[0][0]
        found = [scores for _, scores in seeds]
        score, kept = (groups.over_seeds(found, metric) for metric in (run.task_score, retention))
        record = {
            "task": run.name["task"],
            "line": value,
            "label": value.replace(run.name["method"], run.label, 1) if "method" in keys else value,
            "id": identity,
            "lr": run.record.config["train"]["lr"] if run.record.steps else None,
            "step": step,
            "seeds": len(seeds),
            "score": score["value"],
            "retention": kept["value"],
            "score_se": score["se"],
            "retention_se": kept["se"],
        }
        lines.setdefault(value, []).append(record)
    for line in lines.values():
        for point, best in zip(line, undominated(_places(line)), strict=True):
            point["on_frontier"] = best
    return lines


def _places(line: list[dict[str, Any]]) -> list[Point]:
    return [(point["score"], point["retention"]) for point in line]


def _panel(ax: Axes, task: str, lines: Lines, looks: dict[str, style.Line]) -> list[list[str]]:
    """Draw the lines of a task; return their rows of the table, the largest area first."""
    places = {key: _places(line) for key, line in lines.items()}
    best = {key: frontier(found) for key, found in places.items()}
    matched = matched_score(list(places.values()))
    trained = [point for line in lines.values() for point in line if point["score"] and point["retention"]]
    error, kept_error = (mean([p[f"{name}_se"] for p in trained] or [0.0]) for name in ("score", "retention"))
    ax.axvline(matched, color=style.GREY, linestyle=":", linewidth=1)
    scores = [score for found in best.values() for score, _ in found]
    margin = 0.05 * ((max(scores) - min(scores)) or 1.0)
    ax.set_xlim(min(scores) - margin, max(scores) + margin)
    rows = []
    for key, found in places.items():
        label = lines[key][0]["label"]
        beaten = [point for point in found if point not in best[key] and point[0] >= ax.get_xlim()[0]]
        if beaten:
            faint: dict[str, Any] = {"alpha": 0.25, "markeredgewidth": 0, "clip_on": False}
            ax.plot(*zip(*beaten, strict=True), looks[key].marker, color=looks[key].color, **faint)
        ax.plot(*zip(*best[key], strict=True), **vars(looks[key]), label=label)
        kept = [retention_at(found, score) for score in (matched, matched + error, matched - error)]
        at, above, below = (style.number(value, ".3f") for value in kept)
        counts = [_seeds(lines[key]), str(len(found)), str(len(best[key]))]
        numbers = [f"{area(found):.3f}", f"{best[key][-1][0]:.3f}", f"{at} [{above}, {below}]"]
        rows.append((area(found), [task, label, *counts, *numbers]))
    style.from_zero(ax)
    if trained:  # a cross in the corner: the mean standard error, for the eye
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        place = (left + 0.04 * (right - left) + error, bottom + 0.04 * (top - bottom) + kept_error)
        bars: dict[str, Any] = {"xerr": error, "yerr": kept_error, "elinewidth": 0.8}
        ax.errorbar(*place, **bars, color=style.GREY, label="standard error")
    return [row for _, row in sorted(rows, key=lambda item: -item[0])]


def _seeds(line: list[dict[str, Any]]) -> str:
    """``1``, or ``1 to 3`` where its points are means over different numbers of seeds."""
    counts = [point["seeds"] for point in line]
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
