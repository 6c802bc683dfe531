"""Methods one below the other: task score and retention at the end of training, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from gdo_cli.figures import groups, style
from gdo_cli.runs.find import by_id
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.outcomes import plus_minus
from gdo_cli.support.markdown import rate


@style.styled
def draw(runs: list[RunResult], marked: Sequence[str] = ()) -> style.Drawing:
    """Draw a line per method (mean over seeds), the best task score on top; a panel per measure.

    Bars are standard errors; the dotted line is the untouched model. The methods named in
    ``marked`` have a colour of their own.
    """
    metrics = groups.measures(runs)
    score = metrics[0]
    upwards = sorted(by_id(runs).values(), key=lambda seeds: mean(run.final[score] for run in seeds))
    firsts = [seeds[0] for seeds in upwards]
    names = distinct_names(firsts)
    points = [_point(names[seeds[0].id], seeds, metrics) for seeds in upwards]
    width = 2.2 * len(metrics) + style.text_width(names.values())
    figure, (axes,) = style.panels(width, 0.23 * len(points) + 1.0, 1, len(metrics), sharey=True)
    for ax, metric in zip(axes, metrics, strict=True):
        for row, (point, run) in enumerate(zip(points, firsts, strict=True)):
            color, marker = (style.ORANGE, "s") if run.name["method"] in marked else (style.BLUE, "o")
            error = point[f"{metric}_se"]
            ax.errorbar(point[metric], row, xerr=error, color=color, marker=marker, elinewidth=0.8)
        start = groups.untouched(firsts, metric)
        if start is not None:
            ax.axvline(start, color=style.GREY, linestyle=":", linewidth=1)
        ax.set_xlim(left=-0.03 * ax.get_xlim()[1])  # what lies at zero is seen whole
        ax.set_title(style.name_of(metric) + (" (new task)" if metric == score else ""))
    axes[0].set_yticks(range(len(points)), [point["method"] for point in points])
    axes[0].set_ylim(-0.5, len(points) - 0.5)
    style.under(figure, runs, groups.errors_told("bars", runs))
    points.reverse()
    return style.Drawing(figure, points, _table(points, metrics))


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
        found = groups.over_seeds([run.final for run in runs], metric)
        point |= {metric: found["value"], f"{metric}_se": found["se"]}
    return point


def _table(points: list[dict[str, Any]], metrics: list[str]) -> list[list[str]]:
    heading = ["method", "rate", "added", "trained", *map(style.name_of, metrics), "seeds"]
    rows = [
        [
            p["method"],
            "–" if p["lr"] is None else rate(p["lr"]),
            f"{p['added'] / 1e6:.1f} M",
            f"{p['trainable'] / 1e6:.1f} M ({100 * p['trainable_share']:.1f} %)",
            *(plus_minus(p[m], p[f"{m}_se"]) for m in metrics),
            str(p["seeds"]),
        ]
        for p in points
    ]
    return [heading, *rows]
