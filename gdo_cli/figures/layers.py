"""How far each layer has moved, and which of its matrices: the ranking by which layers are chosen."""

from __future__ import annotations

from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RC,
    SKY,
    TASKS,
    VERMILION,
    new_figure,
    require_one_setting,
    sources,
    under,
)
from gdo_cli.runs.ranking import update_parts
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError

MEASURES = {
    "norm": "Frobenius norm of the update (the paper's rule)",
    "relative": "relative to the weights' norm (mean over matrices)",
}
# From the bottom of a bar to its top.
_COLORS = {
    "q_proj": "#003f63",
    "k_proj": BLUE,
    "v_proj": SKY,
    "o_proj": PURPLE,
    "gate_proj": ORANGE,
    "up_proj": GREEN,
    "down_proj": VERMILION,
}


def draw(runs: list[RunResult]) -> Drawing:
    """Draw a row per task: the norm of each layer's update (left; the paper's measure) and its size
    relative to
    the weights (right), with the rank of the layer above its bar.

    The parts of a bar add up to what the layer is ranked by; the upper third is in bold. Runs without
    update norms (nothing trained) are left out.
    """
    by_task: dict[str, list[RunResult]] = {}
    for run in runs:
        if run.record.updates:
            by_task.setdefault(run.name["task"], []).append(run)
    if not by_task:
        raise UserError("none of the runs holds update norms; run one of them again: gdo train --force …")
    points: list[dict[str, Any]] = []
    with rc_context(RC):
        figure = new_figure(8.4, 0.9 + 1.75 * len(by_task))
        axes = figure.subplots(len(by_task), 2, squeeze=False)
        for row, (task, members) in zip(axes, by_task.items(), strict=True):
            parts = _parts(task, members)
            points += parts
            for ax, measure in zip(row, MEASURES, strict=True):
                _bars(ax, parts, measure)
            row[0].set_ylabel(TASKS.get(task, task).replace(" (", "\n("))
        for ax, title in zip(axes[0], MEASURES.values(), strict=True):
            ax.set_title(title)
        for ax in axes[-1]:
            ax.set_xlabel("layer (above it: its rank)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        under(figure, sources(runs))
    return Drawing(figure, points)


def _parts(task: str, runs: list[RunResult]) -> list[dict[str, Any]]:
    """One record per layer and kind of matrix, the mean over the seeds."""
    cells: dict[tuple[int, str], list[dict[str, Any]]] = {}
    require_one_setting(runs)
    for run in runs:
        for part in update_parts(run):
            cells.setdefault((part["layer"], part["module"]), []).append(part)
    return [
        {"task": task, "layer": layer, "module": module, "seeds": len(runs)}
        | {measure: mean(part[measure] for part in parts) for measure in MEASURES}
        for (layer, module), parts in cells.items()
    ]


def _bars(ax: Axes, parts: list[dict[str, Any]], measure: str) -> None:
    """A bar per layer, made of its matrices, with its rank on top."""
    layers = sorted({part["layer"] for part in parts})
    modules = sorted({p["module"] for p in parts}, key=lambda m: [*_COLORS, m].index(m))
    totals = dict.fromkeys(layers, 0.0)
    for index, module in enumerate(modules):
        heights = {p["layer"]: p[measure] for p in parts if p["module"] == module}
        bars = [heights.get(layer, 0.0) for layer in layers]
        color = _COLORS.get(module, f"C{index}")
        name = module.removesuffix("_proj")
        ax.bar(layers, bars, bottom=list(totals.values()), color=color, label=name, width=0.8)
        totals = {layer: totals[layer] + bar for layer, bar in zip(layers, bars, strict=True)}
    order = sorted(layers, key=lambda layer: -totals[layer])
    for place, layer in enumerate(order, 1):
        ax.annotate(
            str(place),
            (layer, totals[layer]),
            (0, 1.5),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            fontweight="bold" if place <= len(order) // 3 else "normal",
        )
    ax.set_xticks(layers[:: max(1, len(layers) // 18)])
    ax.grid(False, axis="x")
    ax.margins(x=0.01, y=0.1)
