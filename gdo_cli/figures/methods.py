"""Methods one below the other: task score and retention at the end of training, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    RC,
    errors_told,
    measures,
    name_of,
    new_figure,
    sources,
    standard_error,
    text_width,
    under,
)
from gdo_cli.runs.find import by_id
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.uncertainty import plus_minus
from gdo_cli.support.markdown import rate


def draw(runs: list[RunResult], marked: Sequence[str] = ()) -> Drawing:
    """Draw a line per method (mean over seeds), the best task score on top; a panel per measure.

    Bars are standard errors; the dotted line is the untouched model. The methods named in
    ``marked`` have a colour of their own.
    """
    groups = by_id(runs)
    metrics = measures(runs)
    score = metrics[0]
    names = distinct_names([members[0] for members in groups.values()])
    order = sorted(groups, key=lambda key: _mean(groups[key], score))
    with rc_context(RC):
        figure = new_figure(2.2 * len(metrics) + text_width(names.values()), 0.23 * len(order) + 1.0)
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for ax, metric in zip(axes, metrics, strict=True):
            _panel(ax, [groups[key] for key in order], metric, marked)
            ax.set_title(name_of(metric) + (" (new task)" if metric == score else ""))
        axes[0].set_yticks(range(len(order)), [names[key] for key in order])
        axes[0].set_ylim(-0.5, len(order) - 0.5)
        under(figure, f"{errors_told('bars', runs)} · {sources(runs)}")
    best_first = [groups[key] for key in reversed(order)]
    points = [_point(names[members[0].id], members, metrics) for members in best_first]
    return Drawing(figure, points, _table(points, metrics))


def _mean(runs: list[RunResult], metric: str) -> float:
    return mean(run.final[metric] for run in runs)


def _error(runs: list[RunResult], metric: str) -> float:
    return standard_error([run.final for run in runs], metric)


def _panel(ax: Axes, groups: list[list[RunResult]], metric: str, marked: Collection[str]) -> None:
    for row, members in enumerate(groups):
        own = members[0].name["method"] in marked
        ax.errorbar(
            _mean(members, metric),
            row,
            xerr=_error(members, metric),
            color=ORANGE if own else BLUE,
            marker="s" if own else "o",
            elinewidth=0.8,
        )
    starts = [m[0].evaluations[0] for m in groups if m[0].record.steps and m[0].evaluations]
    known = [start[metric] for start in starts if metric in start]
    if known:
        ax.axvline(mean(known), color=GREY, linestyle=":", linewidth=1)
    ax.set_xlim(left=-0.03 * ax.get_xlim()[1])  # what lies at zero is seen whole


def _point(name: str, runs: list[RunResult], metrics: list[str]) -> dict[str, Any]:
    record = runs[0].record
    point: dict[str, Any] = {
        "method": name,
        "lr": record.config["train"]["lr"] if record.steps else None,
        "steps": record.steps,
        "added": record.parameters.added,
        "trainable": record.parameters.trainable,
        "trainable_share": record.parameters.trainable_share,
        "seeds": len(runs),
    }
    for metric in metrics:
        point |= {metric: _mean(runs, metric), f"{metric}_se": _error(runs, metric)}
    return point


def _table(points: list[dict[str, Any]], metrics: list[str]) -> list[list[str]]:
    heading = ["method", "rate", "added", "trained", *map(name_of, metrics), "seeds"]
    rows = [
        [
            p["method"],
            "–" if p["lr"] is None else rate(p["lr"]),
            _millions(p["added"]),
            f"{_millions(p['trainable'])} ({100 * p['trainable_share']:.1f} %)",
            *(plus_minus(p[m], p[f"{m}_se"]) for m in metrics),
            str(p["seeds"]),
        ]
        for p in points
    ]
    return [heading, *rows]


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
