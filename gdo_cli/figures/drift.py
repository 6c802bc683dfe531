"""How far runs have moved from their base: inside by layer, in what they predict, and in their format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gdo_cli.figures import groups, style
from gdo_cli.runs.record import RunResult

ANALYSIS = "drift"
_BASE = "untouched model"
_HIDDEN = {"cka": "Linear CKA with the base", "cosine": "Mean cosine with the base"}
_KINDS = {"probes": ("-", "probes' prompts"), "task": (":", "new task's prompts")}
_KL = {"task_answer": "new task:\nthe answer", "task_prompt": "new task:\nthe prompt", "text": "general text"}
_SCORES = {"exact_match": ("-", "generated"), "choice": (":", "options given")}
Points = list[dict[str, Any]]
Found = dict[str, tuple[dict[str, Any], style.Line]]  # by the run's name, its analysis and its look


@style.styled
def draw(runs: list[RunResult]) -> style.Drawing:
    """Above: similarity of hidden states by layer. Below: KL to the base by kind of text, and WinoGrande
    by the number of solved examples shown, as generated and with the two options given.

    Bars are standard errors over texts and items.
    """
    found = {
        name: (content, style.line_style(run.name["method"], index))
        for index, (run, name, content) in enumerate(groups.analysed(runs, ANALYSIS))
    }
    figure, axes = style.panels(7.6, 5.6, 2, 2)
    points = [
        *_layers(axes[0, 0], found, "cka"),
        *_layers(axes[0, 1], found, "cosine"),
        *_divergences(axes[1, 0], found),
        *_winogrande(axes[1, 1], found),
    ]
    axes[0, 0].plot([], [], "o-", color=style.GREY, label=_BASE)
    style.legend(figure, axes[0, :1], columns=5)
    style.under(figure, runs)
    return style.Drawing(figure, points)


def _point(
    line: str, measure: str, where: str, at: int | None, value: float, se: float | None = None
) -> dict[str, Any]:
    return {"line": line, "measure": measure, "where": where, "layer_or_shots": at, "value": value, "se": se}


def _layers(ax: Axes, found: Found, measure: str) -> Points:
    points: Points = []
    for name, (content, look) in found.items():
        for kind, (dash, _) in _KINDS.items():
            values = content["hidden"][kind][measure]
            ax.plot(range(len(values)), values, dash, color=look.color, label=name if dash == "-" else None)
            points += [_point(name, measure, kind, layer, value) for layer, value in enumerate(values)]
    _key(ax, _KINDS)
    ax.set(title=_HIDDEN[measure], xlabel="layer", ylim=(None, 1 + 0.03 * (1 - ax.get_ylim()[0])))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return points


def _divergences(ax: Axes, found: Found) -> Points:
    points: Points = []
    for index, (name, (content, look)) in enumerate(found.items()):
        aside = 0.12 * (index - (len(found) - 1) / 2)
        own = [_point(name, "kl", key, None, **content["kl"][key]) for key in _KL]
        style.draw_means(ax, [i + aside for i in range(len(_KL))], own, replace(look, linestyle="none"))
        points += own
    if any(point["value"] > 0 for point in points):
        ax.set_yscale("log")
    ax.set_xticks(range(len(_KL)), list(_KL.values()))
    ax.set(xlim=(-0.5, len(_KL) - 0.5), title="KL from the base (nats)")
    return points


def _winogrande(ax: Axes, found: Found) -> Points:
    points: Points = []
    base = next(iter(found.values()))[0]["winogrande"]["base"]
    lines = {_BASE: (base, style.Line(style.GREY, "o", "-"))}
    lines |= {name: (content["winogrande"]["run"], look) for name, (content, look) in found.items()}
    for index, (name, (by_shots, look)) in enumerate(lines.items()):
        for key, (dash, _) in _SCORES.items():
            own = [
                _point(name, f"winogrande/{key}", "", int(shots), scores[key], scores[f"{key}_se"])
                for shots, scores in by_shots.items()
            ]
            places = [place + 0.04 * index for place in range(len(own))]
            style.draw_means(ax, places, own, replace(look, linestyle=dash))
            points += own
    _key(ax, _SCORES)
    ax.axhline(0.5, color="#bbbbbb", linewidth=0.8)
    ax.set_xticks(range(len(base)), list(base))
    ax.set(ylim=(0, 1), xlabel="solved examples shown", title="WinoGrande: format and knowledge")
    ax.legend(fontsize=7, loc="upper left", ncols=2)
    return points


def _key(ax: Axes, dashes: dict[str, tuple[str, str]]) -> None:
    """Entries of the legend for what dashes stand for."""
    for dash, label in dashes.values():
        ax.plot([], [], dash, color=style.GREY, label=label)
