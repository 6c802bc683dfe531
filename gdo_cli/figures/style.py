"""What all figures share: colours that colour-blind readers tell apart, names, legends."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gdo_cli.figures.groups import line_of, sources
from gdo_cli.runs.items import guessing
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.metrics import EXACT_MATCH, INDEX, Metric, measure_named

# Okabe & Ito (2008). SFT blue, G-Freeze orange, G-Train green, as in the paper.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PURPLE, SKY, GREY = "#D55E00", "#CC79A7", "#56B4E9", "#555555"
_BY_METHOD: dict[str, tuple[str, str, Any]] = {
    "sft": (BLUE, "o", "-"),
    "g_freeze": (ORANGE, "s", "-"),
    "g_train": (GREEN, "^", "-"),
    "mlp_only": (VERMILION, "D", "--"),
    "up_only": (PURPLE, "v", "--"),
    "lora": (SKY, "P", "-."),
    "lora_matched": (SKY, "X", ":"),
    "attention_only": (GREY, "p", "--"),
    "output_mix": (ORANGE, "d", "--"),
    "wise_ft": (BLUE, "*", ":"),
    "l2_sp": (BLUE, "<", "--"),
    "kl_to_base": (BLUE, ">", "-."),
    "replay": (BLUE, "h", (0, (4, 1, 1, 1, 1, 1))),
    "zero_init": (VERMILION, "x", ":"),
    "frozen": (GREY, "+", ":"),
}
BLACK, OLIVE, WINE = "#000000", "#999933", "#882255"  # the latter two of Tol's muted scheme (2021)
# For lines that no method tells apart: none is to be taken for SFT, G-Freeze or G-Train.
_CYCLE = (VERMILION, SKY, PURPLE, BLACK, OLIVE, WINE, GREY)
_MARKERS = "Dv*oPsX^"
_DASHES = ("-", "--", ":", "-.")

# What rc_context takes; its own type lists every key that matplotlib knows.
RC: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "savefig.dpi": 200,
}
styled = rc_context(RC)  # decorates each ``draw``

LEVELS = ("untouched model", "guessing")  # last in the legend
# Of measures that are no task's score: those bring their titles along.
MEASURES = {
    "task/loss": "Task loss (nats/token)",
    "winogrande/exact_match": "WinoGrande, exact match",
    "winogrande/likelihood": "WinoGrande, likelihood",
    "winogrande/named": "WinoGrande, names an option",
    "winogrande/named_right": "WinoGrande, right of those named",
    INDEX: "Retention index",
    "arc_easy/likelihood": "ARC-Easy, likelihood",
    "piqa/likelihood": "PIQA, likelihood",
    "lambada/last_word": "LAMBADA, last word",
    "perplexity/loss": "WikiText loss (nats/token)",
    "perplexity/kl": "KL to base on WikiText",
    "prose/loss": "Prose loss (nats/token)",
    "prose/kl": "KL to base on prose",
    "kl/answer": "KL to base at the answer",
    "kl/prompt": "KL to base in the prompt",
}


@dataclass(frozen=True)
class Drawing:
    """A figure and its points, one record per plotted value, for the CSV beside it; and, where the
    figure stands for one, a table for people to read (Markdown), as its rows with the heading first."""

    figure: Figure
    points: list[dict[str, Any]]
    table: list[list[str]] | None = None


@dataclass(frozen=True)
class Line:
    """Colour, marker and dash of one series."""

    color: str
    marker: str
    linestyle: Any


def line_style(key: str, index: int) -> Line:
    """Return the same look for a method in every figure; other series take the next free one."""
    if key in _BY_METHOD:
        return Line(*_BY_METHOD[key])
    return Line(_CYCLE[index % len(_CYCLE)], _MARKERS[index % len(_MARKERS)], "-")


def line_styles(runs: Iterable[RunResult], keys: Sequence[str]) -> dict[str, Line]:
    """Return a look for each line that the settings ``keys`` tell apart, by :func:`line_of`.

    Where the method is one of them, colour and marker are the method's and the other settings make the dash.
    """
    others = [key for key in keys if key != "method"]
    lines = {line_of(run, keys): run for run in runs}
    dashes: dict[str, Any] = {}
    looks = {}
    for index, (line, run) in enumerate(lines.items()):
        look = line_style(run.name["method"] if "method" in keys else "", index)
        setting = line_of(run, others)
        dash = dashes.setdefault(setting, _DASHES[len(dashes) % len(_DASHES)])
        looks[line] = replace(look, linestyle=dash) if "method" in keys and setting else look
    return looks


def name_of(metric: str) -> str:
    found = measure_named(metric)
    return found.title if isinstance(found, Metric) else MEASURES.get(metric, metric)


def number(value: float | None, form: str) -> str:
    """Return a number for a table, or a dash where there is none."""
    return "–" if value is None else format(value, form)


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **share: Any) -> tuple[Figure, Any]:
    """Return a figure of this many inches, and its axes by row and column."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def draw_means(
    ax: Axes, across: Sequence[float], points: Sequence[Mapping[str, Any]], look: Line, **more: Any
) -> None:
    """Draw the values of points with their standard errors."""
    values, errors = ([point[key] for point in points] for key in ("value", "se"))
    ax.errorbar(across, values, yerr=errors, **vars(look), elinewidth=0.8, **more)


def draw_guessing(ax: Axes, runs: Sequence[RunResult], metric: str) -> None:
    """The level of who knows nothing, where the panel's metric has one."""
    level = guessing(runs) if metric == EXACT_MATCH.key else None
    if level is not None:
        ax.axhline(level, color=GREY, linestyle="-.", linewidth=0.8, label="guessing")


def from_zero(ax: Axes) -> None:
    """Let the scale begin at zero, with room below for the whole of a point that lies there."""
    _, top = ax.get_ylim()
    ax.set_ylim(-0.03 * top, top)


def legend(
    figure: Figure, axes: Iterable[Axes], where: Any = "outside upper center", columns: int | None = None
) -> None:
    """One legend for panels, levels last, in as many columns as its longest label leaves room for."""
    handles = {
        label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(handles, key=lambda label: label in LEVELS)
    room = int(figure.get_figwidth() / (0.6 + text_width(labels)))  # with the line before it
    columns = max(1, min(len(labels), columns or room))
    figure.legend([handles[label] for label in labels], labels, loc=where, ncols=columns)


def text_width(labels: Iterable[str]) -> float:
    """About how wide the longest of them is, in inches."""
    return 0.075 * max(map(len, labels), default=0)


def under(figure: Figure, runs: Sequence[RunResult], *told: str) -> None:
    """The line under a figure, broken to its width: what is told of it, and its sources."""
    lines = textwrap.fill(" · ".join([*told, sources(runs)]), width=int(17 * figure.get_figwidth()))
    figure.supxlabel(lines, fontsize=6.5, color=GREY, x=0.01, ha="left")
