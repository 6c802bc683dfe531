"""What a score and its retention cost: parameters trained, seconds of a step, memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import (
    BLUE,
    ORANGE,
    RC,
    measures,
    name_of,
    new_figure,
    require_measure,
    sources,
    under,
)
from gdo_cli.runs.find import by_id
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.support.errors import UserError

COSTS = {
    "trained": "parameters trained (millions)",
    "seconds": "seconds of a training step",
    "gib": "peak memory (GiB)",
}


def draw(runs: list[RunResult], marked: Sequence[str] = (), retention: str = RETENTION) -> Drawing:
    """Draw a column per cost; task score above, retention below; a method is a number, listed at the side.

    Time and memory are the benchmark's (``python -m bench methods``), which takes the methods one after
    another on a quiet machine, where it has the method on the same model, task and batch. Those of the runs
    themselves, made on different machines beside other work, cannot be compared: a method without a row of
    the benchmark is left out there. The methods in ``marked`` have a colour of their own. Runs that train
    nothing are left out.
    """
    groups = by_id(run for run in runs if run.record.steps)
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
    costs = [cost for cost in COSTS if any(point[cost] is not None for point in points)]
    with rc_context(RC):
        figure = new_figure(2.4 + 2.4 * len(costs), 6.4)
        axes = figure.subplots(2, len(costs), sharex="col", sharey="row", squeeze=False)
        for row, metric in zip(axes, metrics, strict=True):
            for ax, cost in zip(row, costs, strict=True):
                _panel(ax, points, cost, metric, coloured)
            row[0].set_ylabel(("New task: " if metric == score else "Kept: ") + name_of(metric))
        for ax, cost in zip(axes[1], costs, strict=True):
            ax.set_xlabel(COSTS[cost])
        axes[1, 0].set_xscale("log")
        axes[1, 0].xaxis.set_major_formatter("{x:g}")
        entries = [_entry(number, point, coloured) for number, point in enumerate(points, 1)]
        figure.legend(handles=entries, loc="outside right upper", fontsize=7.5, handlelength=1)
        under(figure, f"{_told(points)} · {sources(runs)}")
    return Drawing(figure, points, _table(points, metrics))


def _told(points: list[dict[str, Any]]) -> str:
    """Whose time and memory are known."""
    known = sum(point["seconds"] is not None for point in points)
    return f"time and memory: the benchmark's, which has {known} of the {len(points)} methods"


def _point(name: str, runs: list[RunResult], metrics: list[str]) -> dict[str, Any]:
    row = _benchmark(runs[0])
    return {
        "method": name,
        "lr": runs[0].record.config["train"]["lr"],
        "seeds": len(runs),
        "trained": runs[0].record.parameters.trainable / 1e6,
        "seconds": row["median"] if row else None,
        "gib": row["peak_bytes"] / 2**30 if row else None,
    } | {metric: mean(run.final[metric] for run in runs) for metric in metrics}


def _table(points: list[dict[str, Any]], metrics: list[str]) -> list[list[str]]:
    """The numbers of the list at the side, with – for what the benchmark does not have."""
    forms = {"trained": "{:.3g}", "seconds": "{:.2f}", "gib": "{:.1f}"} | dict.fromkeys(metrics, "{:.3f}")
    rows = [
        [
            f"{number} {p['method']}",
            *("–" if p[k] is None else form.format(p[k]) for k, form in forms.items()),
        ]
        for number, p in enumerate(points, 1)
    ]
    return [["method", *COSTS.values(), *map(name_of, metrics)], *rows]


def _benchmark(run: RunResult) -> dict[str, Any] | None:
    """The row of the benchmark that did the same work as a step of the run."""
    config = run.record.config
    settings = {key: run.name[key] for key in ("model", "task")}
    settings |= {"method": config["method"], "batch_size": config["train"]["batch_size"]}
    return next((row for row in _rows(run.path.parents[4]) if row.get("settings") == settings), None)


@cache
def _rows(results: Path) -> list[dict[str, Any]]:
    file = results / "benchmarks" / "methods.json"
    return list(json.loads(file.read_text("utf-8"))["rows"]) if file.is_file() else []


def _panel(ax: Axes, points: list[dict[str, Any]], cost: str, metric: str, marked: set[str]) -> None:
    for number, point in enumerate(points, 1):
        if point[cost] is None:
            continue
        color = ORANGE if point["method"] in marked else BLUE
        place = (point[cost], point[metric])
        ax.plot(*place, "o", color=color, markersize=9, alpha=0.85)
        ax.annotate(str(number), place, ha="center", va="center", fontsize=6, color="white")
    ax.margins(0.08)


def _entry(number: int, point: dict[str, Any], marked: set[str]) -> Line2D:
    color = ORANGE if point["method"] in marked else BLUE
    return Line2D([], [], marker="o", ls="", markersize=4, color=color, label=f"{number}  {point['method']}")
