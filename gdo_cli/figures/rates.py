"""Task score and retention at the end of training, against the learning rate or another number."""

from __future__ import annotations

from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from gdo_cli.figures import groups, style
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.outcomes import plus_minus
from gdo_cli.support.errors import require
from gdo_cli.support.markdown import rate

SETTINGS = {
    "train.lr": "learning rate",
    "method.alpha": "α: 0 the base, 1 the run",
    "method.share": "λ: 0 the base, 1 the trained copy",
}


@style.styled
def draw(runs: list[RunResult], x: str | list[str] = "train.lr", lines: str = "method") -> style.Drawing:
    """Draw a panel per measure: means over seeds with their standard errors.

    The dotted line is the untouched model, the dash-dotted one what guessing gets. The table has the score
    on validation items too, by which a rate is chosen. ``x`` names the setting across, or several, of which a
    run has one; ``lines`` the one that tells lines apart.
    """
    across = [x] if isinstance(x, str) else x

    def place(run: RunResult) -> float:
        """Its value of the first setting that it has."""
        key = next((key for key in across if groups.has(run, key)), across[0])
        value = run.setting(key)
        told = f"x={key}: {value} of {run.title} is not a number to go across by"
        require(isinstance(value, int | float), told)
        return float(value)

    metrics = groups.measures(runs)
    by_line = groups.grouped(sorted(runs, key=place), lambda run: groups.line_of(run, [lines]))
    series = {line: groups.grouped(members, place) for line, members in by_line.items()}
    for places in series.values():
        for same in places.values():
            groups.require_one_setting(same, lines=lines, x=", ".join(across))
    looks = style.line_styles(runs, [lines])
    written = rate if across == ["train.lr"] else "{:g}".format
    points: list[dict[str, Any]] = []
    table: dict[tuple[str, float], list[str]] = {}
    figure, (axes,) = style.panels(2.5 * len(metrics), 2.9, 1, len(metrics))
    for ax, metric in zip(axes, metrics, strict=True):
        for line, places in series.items():
            label = groups.label_of(by_line[line][0], lines)
            own: list[dict[str, Any]] = []
            for at, same in places.items():
                point: dict[str, Any] = {"line": label, "metric": metric, across[0].rpartition(".")[2]: at}
                point |= groups.over_seeds([run.final for run in same], metric)
                whole = all(run.evaluations for run in same)  # evaluated while training, too
                point["validation"] = mean(run.validation_score for run in same) if whole else None
                begun = [label, written(at), style.number(point["validation"], ".3f")]
                table.setdefault((line, at), begun).append(plus_minus(point["value"], point["se"]))
                own.append(point)
            style.draw_means(ax, list(places), own, looks[line], label=label)
            points += own
        start = groups.untouched(runs, metric)
        if start is not None:
            ax.axhline(start, color=style.GREY, linestyle=":", linewidth=1, label="untouched model")
        if across == ["train.lr"]:
            style.draw_guessing(ax, runs, metric)
        _scales(ax, metric, across, sorted({*map(place, runs)}))
        ax.set_xlabel("\n".join(SETTINGS.get(key, key) for key in across))
        ax.set_title(style.name_of(metric) + (" (new task)" if metric == metrics[0] else ""))
    style.legend(figure, axes[:1])
    style.under(figure, runs, groups.errors_told("bars", runs))
    place_name = " / ".join(SETTINGS.get(key, key) for key in across)
    heading = ["method", place_name, "validation, last three", *map(style.name_of, metrics), "seeds"]
    rows = [[*row, str(len(series[line][at]))] for (line, at), row in table.items()]
    return style.Drawing(figure, points, [heading, *rows])


def _scales(ax: Axes, metric: str, across: list[str], places: list[float]) -> None:
    if across == ["train.lr"]:
        ax.set_xscale("log")
        if places[-1] < 10 * places[0]:  # else matplotlib crowds the axis with 2, 3 and 4 times 10^-5
            ax.set_xticks(places, labels=[rate(lr) for lr in places])
            ax.minorticks_off()
    if set(across) <= {"method.alpha", "method.share"}:
        ax.set_xlim(-0.03, max(1.03, ax.get_xlim()[1]))
    if "loss" in metric:  # a few nats or a hundred
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        style.from_zero(ax)
