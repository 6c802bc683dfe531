"""How far runs have moved from their base: inside by layer, in what they predict, and in their format."""

from __future__ import annotations

from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import GREY, RC, Line, line_style, new_figure, sources, under
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RunResult

ANALYSIS = "drift"
_BASE = "untouched model"
_HIDDEN = {"cka": "Linear CKA with the base", "cosine": "Mean cosine with the base"}
_KINDS = {"probes": ("-", "probes' prompts"), "task": (":", "new task's prompts")}
_KL = {"task_answer": "new task:\nthe answer", "task_prompt": "new task:\nthe prompt", "text": "general text"}
_SCORES = {"exact_match": ("-", "generated"), "choice": (":", "options given")}


def draw(runs: list[RunResult]) -> Drawing:
    """Above: similarity of hidden states by layer. Below: KL to the base by kind of text, and WinoGrande
    by the number of solved examples shown, as generated and with the two options given.

    Bars are standard errors over texts and items.
    """
    names = distinct_names(runs)
    found = {names[run.id] + _seed(run, runs): _analysis(run) for run in runs}
    looks = {
        name: line_style(run.name["method"], i) for i, (name, run) in enumerate(zip(found, runs, strict=True))
    }
    points: list[dict[str, Any]] = []
    with rc_context(RC):
        figure = new_figure(7.6, 5.6)
        axes = figure.subplots(2, 2)
        for ax, measure in zip(axes[0], _HIDDEN, strict=True):
            _layers(ax, found, looks, measure, points)
        _divergences(axes[1, 0], found, looks, points)
        _winogrande(axes[1, 1], found, looks, points)
        axes[0, 0].plot([], [], "o-", color=GREY, label=_BASE)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)))
        under(figure, sources(runs))
    return Drawing(figure, points)


def _analysis(run: RunResult) -> dict[str, Any]:
    found = run.analysis("drift")
    assert found is not None, "gdo plot hands over analysed runs alone"
    return found


def _seed(run: RunResult, runs: list[RunResult]) -> str:
    return f", seed {run.seed}" if len({other.seed for other in runs}) > 1 else ""


def _layers(
    ax: Axes, found: dict[str, Any], looks: dict[str, Line], measure: str, points: list[dict[str, Any]]
) -> None:
    for name, content in found.items():
        for kind, (dash, _) in _KINDS.items():
            values = content["hidden"][kind][measure]
            layers = range(len(values))
            label = name if dash == "-" else None
            ax.plot(layers, values, dash, color=looks[name].color, label=label, marker=None)
            points += [
                _row(name, measure, kind, layer, value) for layer, value in zip(layers, values, strict=True)
            ]
    for dash, label in _KINDS.values():
        ax.plot([], [], dash, color=GREY, label=label)
    ax.set_title(_HIDDEN[measure])
    ax.set_xlabel("layer")
    ax.set_ylim(top=1 + 0.03 * (1 - ax.get_ylim()[0]))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _row(
    name: str, measure: str, where: str, at: int | None, value: float, error: float | None = None
) -> dict[str, Any]:
    return {
        "line": name,
        "measure": measure,
        "where": where,
        "layer_or_shots": at,
        "value": value,
        "se": error,
    }


def _divergences(
    ax: Axes, found: dict[str, Any], looks: dict[str, Line], points: list[dict[str, Any]]
) -> None:
    for index, (name, content) in enumerate(found.items()):
        aside = 0.12 * (index - (len(found) - 1) / 2)
        numbers = [content["kl"][key] for key in _KL]
        values, errors = ([number[part] for number in numbers] for part in ("value", "se"))
        ax.errorbar(
            [place + aside for place in range(len(_KL))],
            values,
            yerr=errors,
            color=looks[name].color,
            marker=looks[name].marker,
            linestyle="none",
            elinewidth=0.8,
        )
        points += [
            _row(name, "kl", key, None, value, error)
            for key, value, error in zip(_KL, values, errors, strict=True)
        ]
    if any(point["value"] > 0 for point in points if point["measure"] == "kl"):
        ax.set_yscale("log")
    ax.set_xticks(range(len(_KL)), list(_KL.values()))
    ax.set_xlim(-0.5, len(_KL) - 0.5)
    ax.set_title("KL from the base (nats)")


def _winogrande(
    ax: Axes, found: dict[str, Any], looks: dict[str, Line], points: list[dict[str, Any]]
) -> None:
    base = next(iter(found.values()))["winogrande"]["base"]
    lines = {_BASE: (base, Line(GREY, "o", "-"))}
    lines |= {name: (content["winogrande"]["run"], looks[name]) for name, content in found.items()}
    for index, (name, (scores, look)) in enumerate(lines.items()):
        shots = [int(n) for n in scores]
        for key, (dash, _) in _SCORES.items():
            values = [part[key] for part in scores.values()]
            errors = [part[f"{key}_se"] for part in scores.values()]
            places = [place + 0.04 * index for place in range(len(shots))]
            ax.errorbar(
                places,
                values,
                yerr=errors,
                color=look.color,
                marker=look.marker,
                linestyle=dash,
                elinewidth=0.8,
            )
            points += [
                _row(name, f"winogrande/{key}", "", n, value, error)
                for n, value, error in zip(shots, values, errors, strict=True)
            ]
    for dash, label in _SCORES.values():
        ax.plot([], [], dash, color=GREY, label=label)
    ax.axhline(0.5, color="#bbbbbb", linewidth=0.8)
    ax.set_xticks(range(len(base)), list(base))
    ax.set_ylim(0, 1)
    ax.set_xlabel("solved examples shown")
    ax.set_title("WinoGrande: format and knowledge")
    ax.legend(fontsize=7, loc="upper left", ncols=2)
