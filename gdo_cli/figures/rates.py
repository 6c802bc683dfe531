"""Task score and retention at the end of training, against the learning rate or another number."""

from __future__ import annotations

from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from gdo_cli.errors import require
from gdo_cli.figures import Drawing
from gdo_cli.figures.style import (
    GREY,
    RC,
    field,
    has,
    legend_above,
    line_style,
    measures,
    name_of,
    new_figure,
    sources,
    standard_error,
    under,
)
from gdo_cli.markdown import rate
from gdo_cli.results import RunResult

SETTINGS = {
    "train.lr": "learning rate",
    "method.alpha": "α: 0 the base, 1 the run",
    "method.share": "λ: 0 the base, 1 the trained copy",
}


def draw(runs: list[RunResult], x: str | list[str] = "train.lr", lines: str = "method") -> Drawing:
    """A panel per measure; the dotted line is the untouched model, bars are standard errors.

    The table has the score on validation items too, by which a rate is chosen.

    ``x`` names the setting across, or several, of which a run has one; ``lines`` the one that tells lines
    apart.
    """
    across = [x] if isinstance(x, str) else x
    metrics = measures(runs)
    by_method: dict[str, list[RunResult]] = {}
    for run in sorted(runs, key=lambda r: _place(r, across)):
        by_method.setdefault(str(field(run, lines)), []).append(run)
    points: list[dict[str, Any]] = []
    with rc_context(RC):
        figure = new_figure(2.5 * len(metrics), 2.9)
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for ax, metric in zip(axes, metrics, strict=True):
            for index, (key, members) in enumerate(by_method.items()):
                _series(ax, key, index, members, (across, metric), points)
            _base(ax, runs, metric)
            if across == ["train.lr"]:
                _rates_across(ax, sorted({_place(run, across) for run in runs}))
            if set(across) <= {"method.alpha", "method.share"}:
                ax.set_xlim(-0.03, max(1.03, ax.get_xlim()[1]))
            ax.set_xlabel("\n".join(SETTINGS.get(key, key) for key in across))
            ax.set_title(name_of(metric) + (" (new task)" if metric == metrics[0] else ""))
            if "loss" in metric:  # a few nats or a hundred
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_locator(NullLocator())
            else:
                ax.set_ylim(bottom=0)
        handles, labels = axes[0].get_legend_handles_labels()
        legend_above(figure, handles, labels)
        under(figure, sources(runs))
    return Drawing(figure, points, _table(points, across, metrics))


def _rates_across(ax: Axes, rates: list[float]) -> None:
    ax.set_xscale("log")
    if rates[-1] < 10 * rates[0]:  # else matplotlib crowds the axis with 2, 3 and 4 times 10^-5
        ax.set_xticks(rates, labels=[rate(lr) for lr in rates])
        ax.minorticks_off()


def _place(run: RunResult, across: list[str]) -> float:
    """The run's value of the first setting that it has."""
    key = next((key for key in across if has(run, key)), across[0])
    value = field(run, key)
    require(
        isinstance(value, int | float), f"x={key}: {value} of {run.title} is not a number to go across by"
    )
    return float(value)


def _series(
    ax: Axes,
    key: str,
    index: int,
    runs: list[RunResult],
    axes: tuple[list[str], str],
    points: list[dict[str, Any]],
) -> None:
    across, metric = axes
    by_x: dict[float, list[RunResult]] = {}
    for run in runs:
        by_x.setdefault(_place(run, across), []).append(run)
    values = [mean(run.final[metric] for run in members) for members in by_x.values()]
    errors = [standard_error(members, metric) for members in by_x.values()]
    look = line_style(key, index)
    ax.errorbar(
        list(by_x),
        values,
        yerr=errors,
        label=runs[0].label,
        color=look.color,
        marker=look.marker,
        linestyle=look.linestyle,
        elinewidth=0.8,
    )
    points += [
        {"line": runs[0].label, "metric": metric, _column(across): place}
        | {"value": value, "se": error, "seeds": len(members), "validation": _chosen_by(members)}
        for (place, members), value, error in zip(by_x.items(), values, errors, strict=True)
    ]


def _chosen_by(runs: list[RunResult]) -> float | None:
    """The mean score on validation items, where the runs were evaluated while training."""
    return mean(run.validation_score for run in runs) if all(run.evaluations for run in runs) else None


def _table(points: list[dict[str, Any]], across: list[str], metrics: list[str]) -> list[list[str]]:
    """A row for every place of every line."""
    rows: dict[tuple[str, float], dict[str, str]] = {}
    for point in points:
        row = rows.setdefault((point["line"], point[_column(across)]), {"seeds": str(point["seeds"])})
        row["validation"] = "–" if point["validation"] is None else f"{point['validation']:.3f}"
        row[point["metric"]] = f"{point['value']:.3f} ± {point['se']:.3f}"
    place_name = " / ".join(SETTINGS.get(key, key) for key in across)
    heading = ["method", place_name, "validation, last three", *map(name_of, metrics), "seeds"]
    written = rate if across == ["train.lr"] else "{:g}".format
    keys = ("validation", *metrics, "seeds")
    body = ([line, written(place), *(row[key] for key in keys)] for (line, place), row in rows.items())
    return [heading, *body]


def _column(across: list[str]) -> str:
    """What the place across is called in the CSV."""
    return across[0].rpartition(".")[2]


def _base(ax: Axes, runs: list[RunResult], metric: str) -> None:
    """The untouched model: step 0 of any run, on the validation items for the task."""
    trained = [run for run in runs if run.record["steps"] and run.evaluations]
    starts = [run.evaluations[0][metric] for run in trained if metric in run.evaluations[0]]
    if starts:
        ax.axhline(mean(starts), color=GREY, linestyle=":", linewidth=1, label="untouched model")
