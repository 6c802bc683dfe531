"""What a score and its retention cost: parameters trained, seconds of a step, memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gdo_cli.errors import UserError
from gdo_cli.figures import Drawing
from gdo_cli.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    RC,
    measures,
    name_of,
    new_figure,
    require_measure,
    sources,
    under,
)
from gdo_cli.results import RETENTION, RunResult, by_id, distinct_names

COSTS = {
    "trained": "parameters trained (millions)",
    "seconds": "seconds of a training step",
    "gib": "peak memory (GiB)",
}


def draw(runs: list[RunResult], marked: Sequence[str] = (), retention: str = RETENTION) -> Drawing:
    """A column per cost; task score above, retention below; a method is a number, listed at the side.

    Time and memory are those of the benchmark (``python -m bench methods``), taken one after another on a
    quiet machine, where it has the method on the same model, task and batch; else those of the run itself,
    hollow. The methods in ``marked`` have a colour of their own. Runs that train nothing are left
    out.
    """
    groups = by_id(run for run in runs if run.record["steps"])
    if not groups:
        raise UserError("none of the runs trains anything, so there is no cost to draw")
    trained = [run for members in groups.values() for run in members]
    score = measures(trained)[0]
    require_measure(retention, set.intersection(*(set(run.final) for run in trained)))
    metrics = [score, retention]
    names = distinct_names([members[0] for members in groups.values()])
    points = [_point(names[key], members, metrics) for key, members in groups.items()]
    points.sort(key=lambda point: -point[score])
    coloured = {names[key] for key, found in groups.items() if found[0].name["method"] in marked}
    with rc_context(RC):
        figure = new_figure(9.6, 6.4)
        axes = figure.subplots(2, 3, sharex="col", sharey="row")
        for row, metric in zip(axes, metrics, strict=True):
            for ax, cost in zip(row, COSTS, strict=True):
                _panel(ax, points, cost, metric, coloured)
            row[0].set_ylabel(("New task: " if metric == score else "Kept: ") + name_of(metric))
        for ax, label in zip(axes[1], COSTS.values(), strict=True):
            ax.set_xlabel(label)
        axes[1, 0].set_xscale("log")
        axes[1, 0].xaxis.set_major_formatter("{x:g}")
        entries = [_entry(number, point, coloured) for number, point in enumerate(points, 1)]
        if any(point["measured"] == "run" for point in points):
            hollow = Line2D([], [], marker="o", ls="", markersize=4, markerfacecolor="none", color=GREY)
            hollow.set_label("hollow: as in the run itself")
            entries.append(hollow)
        figure.legend(handles=entries, loc="outside right upper", fontsize=7.5, handlelength=1)
        under(figure, sources(runs))
    return Drawing(figure, points)


def _point(name: str, runs: list[RunResult], metrics: list[str]) -> dict[str, Any]:
    row = _benchmark(runs[0])
    steps = [line["seconds"] for run in runs for line in run.metrics if line["kind"] == "train"]
    peak = row["peak_bytes"] if row else mean(run.record["peak_memory_bytes"] for run in runs)
    return {
        "method": name,
        "lr": runs[0].record["config"]["train"]["lr"],
        "seeds": len(runs),
        "trained": runs[0].record["parameters"]["trainable"] / 1e6,
        "seconds": row["median"] if row else median(steps),
        "gib": peak / 2**30,
        "measured": "benchmark" if row else "run",
    } | {metric: mean(run.final[metric] for run in runs) for metric in metrics}


def _benchmark(run: RunResult) -> dict[str, Any] | None:
    """The row of the benchmark that did the same work as a step of the run."""
    config = run.record["config"]
    settings = {key: run.name[key] for key in ("model", "task")}
    settings |= {"method": config["method"], "batch_size": config["train"]["batch_size"]}
    return next((row for row in _rows(run.path.parents[4]) if row.get("settings") == settings), None)


@cache
def _rows(results: Path) -> list[dict[str, Any]]:
    file = results / "benchmarks" / "methods.json"
    return list(json.loads(file.read_text("utf-8"))["rows"]) if file.is_file() else []


def _panel(ax: Axes, points: list[dict[str, Any]], cost: str, metric: str, marked: set[str]) -> None:
    for number, point in enumerate(points, 1):
        color = ORANGE if point["method"] in marked else BLUE
        hollow = cost != "trained" and point["measured"] == "run"
        ax.plot(
            point[cost],
            point[metric],
            "o",
            color=color,
            markersize=9,
            markerfacecolor="white" if hollow else color,
            alpha=0.85,
        )
        ax.annotate(
            str(number),
            (point[cost], point[metric]),
            ha="center",
            va="center",
            fontsize=6,
            color=color if hollow else "white",
        )
    ax.margins(0.08)


def _entry(number: int, point: dict[str, Any], marked: set[str]) -> Line2D:
    color = ORANGE if point["method"] in marked else BLUE
    return Line2D([], [], marker="o", ls="", markersize=4, color=color, label=f"{number}  {point['method']}")
