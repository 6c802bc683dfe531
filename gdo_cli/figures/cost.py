"""What a score and its retention cost: parameters trained, seconds of a step, memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.lines import Line2D

from gdo_cli.figures import groups, style
from gdo_cli.runs.find import by_id
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.support.errors import require

# What each cost is called, and its form in the table.
COSTS = {
    "trained": ("parameters trained (millions)", ".3g"),
    "seconds": ("seconds of a training step", ".2f"),
    "gib": ("peak memory (GiB)", ".1f"),
}


@style.styled
def draw(runs: list[RunResult], marked: Sequence[str] = (), retention: str = RETENTION) -> style.Drawing:
    """Draw a column per cost; task score above, retention below; a method is a number, listed at the side.

    Time and memory are the benchmark's (``python -m bench methods``), which takes the methods one after
    another on a quiet machine, where it has the method on the same model, task and batch. Those of the runs
    themselves, made on different machines beside other work, cannot be compared: a method without a row of
    the benchmark is left out there. The methods in ``marked`` have a colour of their own. Runs that train
    nothing are left out.
    """
    trained = [run for run in runs if run.record.steps]
    require(bool(trained), "none of the runs trains anything, so there is no cost to draw")
    score = groups.measures(trained)[0]
    groups.require_measure(retention, set.intersection(*(set(run.final) for run in trained)))
    names = distinct_names(trained)
    points = [_point(names[key], seeds, [score, retention]) for key, seeds in by_id(trained).items()]
    points.sort(key=lambda point: -point[score])
    own = {names[run.id] for run in trained if run.name["method"] in marked}
    colors = [style.ORANGE if point["method"] in own else style.BLUE for point in points]
    costs = [cost for cost in COSTS if any(point[cost] is not None for point in points)]
    figure, axes = style.panels(2.4 + 2.4 * len(costs), 6.4, 2, len(costs), sharex="col", sharey="row")
    for row, metric in zip(axes, (score, retention), strict=True):
        row[0].set_ylabel(("New task: " if metric == score else "Kept: ") + style.name_of(metric))
        for ax, cost in zip(row, costs, strict=True):
            for number, (point, color) in enumerate(zip(points, colors, strict=True), 1):
                if point[cost] is not None:
                    place = (point[cost], point[metric])
                    ax.plot(*place, "o", color=color, markersize=9, alpha=0.85)
                    ax.annotate(str(number), place, ha="center", va="center", fontsize=6, color="white")
            ax.margins(0.08)
    for ax, cost in zip(axes[1], costs, strict=True):
        ax.set_xlabel(COSTS[cost][0])
    axes[1, 0].set_xscale("log")
    axes[1, 0].xaxis.set_major_formatter("{x:g}")
    dot: dict[str, Any] = {"marker": "o", "ls": "", "markersize": 4}
    entries = [
        Line2D([], [], color=color, label=f"{number}  {point['method']}", **dot)
        for number, (point, color) in enumerate(zip(points, colors, strict=True), 1)
    ]
    figure.legend(handles=entries, loc="outside right upper", fontsize=7.5, handlelength=1)
    known = sum(point["seconds"] is not None for point in points)
    style.under(
        figure, runs, f"time and memory: the benchmark's, which has {known} of the {len(points)} methods"
    )
    return style.Drawing(figure, points, _table(points, [score, retention]))


def _point(name: str, runs: list[RunResult], metrics: list[str]) -> dict[str, Any]:
    config = runs[0].record.config
    settings = {key: runs[0].name[key] for key in ("model", "task")}
    settings |= {"method": config["method"], "batch_size": config["train"]["batch_size"]}
    rows = _benchmark(runs[0].path.parents[4])
    same_work = next((row for row in rows if row.get("settings") == settings), None)
    return {
        "method": name,
        "lr": config["train"]["lr"],
        "seeds": len(runs),
        "trained": runs[0].record.parameters.trainable / 1e6,
        "seconds": same_work["median"] if same_work else None,
        "gib": same_work["peak_bytes"] / 2**30 if same_work else None,
    } | {metric: mean(run.final[metric] for run in runs) for metric in metrics}


@cache
def _benchmark(results: Path) -> list[dict[str, Any]]:
    file = results / "benchmarks" / "methods.json"
    return list(json.loads(file.read_text("utf-8"))["rows"]) if file.is_file() else []


def _table(points: list[dict[str, Any]], metrics: list[str]) -> list[list[str]]:
    """The numbers of the list at the side, with – for what the benchmark does not have."""
    columns = COSTS | {metric: (style.name_of(metric), ".3f") for metric in metrics}
    rows = [
        [f"{i} {point['method']}", *(style.number(point[key], form) for key, (_, form) in columns.items())]
        for i, point in enumerate(points, 1)
    ]
    return [["method", *(title for title, _ in columns.values())], *rows]
