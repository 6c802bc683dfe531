"""Task score and retention at the end of training, against the learning rate or another number."""

from __future__ import annotations

from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import (
    GREY,
    RC,
    Line,
    draw_guessing,
    errors_told,
    field,
    from_zero,
    has,
    label_of,
    legend_above,
    line_of,
    line_styles,
    measures,
    name_of,
    new_figure,
    require_one_setting,
    sources,
    standard_error,
    under,
)
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.uncertainty import plus_minus
from gdo_cli.support.errors import require
from gdo_cli.support.markdown import rate

LEVELS = ("untouched model", "guessing")  # last in the legend
SETTINGS = {
    "train.lr": "learning rate",
    "method.alpha": "α: 0 the base, 1 the run",
    "method.share": "λ: 0 the base, 1 the trained copy",
}


def draw(runs: list[RunResult], x: str | list[str] = "train.lr", lines: str = "method") -> Drawing:
    """Draw a panel per measure: means over seeds with their standard errors.

    The dotted line is the untouched model, the dash-dotted one what guessing gets. The table has the score
    on validation items too, by which a rate is chosen. ``x`` names the setting across, or several, of which a
    run has one; ``lines`` the one that tells lines apart.
    """
    across = [x] if isinstance(x, str) else x
    metrics = measures(runs)
    by_line: dict[str, list[RunResult]] = {}
    for run in sorted(runs, key=lambda r: _place(r, across)):
        by_line.setdefault(line_of(run, [lines]), []).append(run)
    _require_seeds_alone(by_line, across, lines)
    looks = line_styles(runs, [lines])
    points: list[dict[str, Any]] = []
    with rc_context(RC):
        figure = new_figure(2.5 * len(metrics), 2.9)
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for ax, metric in zip(axes, metrics, strict=True):
            for line, members in by_line.items():
                _series(ax, label_of(members[0], lines), looks[line], members, (across, metric), points)
            _base(ax, runs, metric)
            if across == ["train.lr"]:
                draw_guessing(ax, runs, metric)
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
                from_zero(ax)
        entries = zip(*axes[0].get_legend_handles_labels(), strict=True)
        handles, labels = zip(*sorted(entries, key=lambda entry: entry[1] in LEVELS), strict=True)
        legend_above(figure, handles, labels)
        under(figure, f"{errors_told('bars', runs)} · {sources(runs)}")
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


def _by_place(runs: list[RunResult], across: list[str]) -> dict[float, list[RunResult]]:
    places: dict[float, list[RunResult]] = {}
    for run in runs:
        places.setdefault(_place(run, across), []).append(run)
    return places


def _require_seeds_alone(by_line: dict[str, list[RunResult]], across: list[str], lines: str) -> None:
    for members in by_line.values():
        for same in _by_place(members, across).values():
            require_one_setting(same, lines=lines, x=", ".join(across))


def _series(
    ax: Axes,
    label: str,
    look: Line,
    runs: list[RunResult],
    axes: tuple[list[str], str],
    points: list[dict[str, Any]],
) -> None:
    across, metric = axes
    by_x = _by_place(runs, across)
    values = [mean(run.final[metric] for run in members) for members in by_x.values()]
    errors = [standard_error([run.final for run in members], metric) for members in by_x.values()]
    ax.errorbar(
        list(by_x),
        values,
        yerr=errors,
        label=label,
        color=look.color,
        marker=look.marker,
        linestyle=look.linestyle,
        elinewidth=0.8,
    )
    points += [
        {"line": label, "metric": metric, _column(across): place}
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
        row[point["metric"]] = plus_minus(point["value"], point["se"])
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
    trained = [run for run in runs if run.record.steps and run.evaluations]
    starts = [run.evaluations[0][metric] for run in trained if metric in run.evaluations[0]]
    if starts:
        ax.axhline(mean(starts), color=GREY, linestyle=":", linewidth=1, label="untouched model")
