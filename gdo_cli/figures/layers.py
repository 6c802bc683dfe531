"""How far each layer has moved, and which of its matrices: the ranking by which layers are chosen."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from gdo_cli.figures import groups, style
from gdo_cli.runs.ranking import update_parts
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import require

MEASURES = {
    "norm": "Frobenius norm of the update (the paper's rule)",
    "relative": "relative to the weights' norm (mean over matrices)",
}
# From the bottom of a bar to its top.
_COLORS = {
    "q_proj": "#003f63",
    "k_proj": style.BLUE,
    "v_proj": style.SKY,
    "o_proj": style.PURPLE,
    "gate_proj": style.ORANGE,
    "up_proj": style.GREEN,
    "down_proj": style.VERMILION,
}


@style.styled
def draw(runs: list[RunResult]) -> style.Drawing:
    """Draw a row per task: the norm of each layer's update (left; the paper's measure) and its size
    relative to the weights (right), with the rank of the layer above its bar.

    The parts of a bar add up to what the layer is ranked by; the upper third is in bold. Runs without
    update norms (nothing trained) are left out.
    """
    by_task = groups.by_setting((run for run in runs if run.record.updates), "task")
    require(bool(by_task), "none of the runs holds update norms; run one of them again: gdo train --force …")
    points: list[dict[str, Any]] = []
    figure, axes = style.panels(8.4, 0.9 + 1.75 * len(by_task), len(by_task), 2)
    for row, (task, members) in zip(axes, by_task.items(), strict=True):
        groups.require_one_setting(members)
        rows = [{"task": task, "seeds": len(members)} | part for run in members for part in update_parts(run)]
        parts = groups.means(rows, ("task", "layer", "module", "seeds"), MEASURES)
        points += parts
        for ax, measure in zip(row, MEASURES, strict=True):
            _bars(ax, parts, measure)
        row[0].set_ylabel(groups.named("task", task).replace(" (", "\n("))
    for column, title in zip(axes.T, MEASURES.values(), strict=True):
        column[0].set_title(title)
        column[-1].set_xlabel("layer (above it: its rank)")
    style.legend(figure, axes[0, :1])
    style.under(figure, runs)
    return style.Drawing(figure, points)


def _bars(ax: Axes, parts: list[dict[str, Any]], measure: str) -> None:
    """A bar per layer, made of its matrices, with its rank on top."""
    totals = dict.fromkeys(sorted({part["layer"] for part in parts}), 0.0)
    layers = list(totals)
    modules = sorted({p["module"] for p in parts}, key=lambda m: [*_COLORS, m].index(m))
    for index, module in enumerate(modules):
        heights = {p["layer"]: p[measure] for p in parts if p["module"] == module}
        bars = [heights.get(layer, 0.0) for layer in layers]
        color = _COLORS.get(module, f"C{index}")
        name = module.removesuffix("_proj")
        ax.bar(layers, bars, bottom=list(totals.values()), color=color, label=name, width=0.8)
        totals = {layer: totals[layer] + bar for layer, bar in zip(layers, bars, strict=True)}
    text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 6.5}
    for place, layer in enumerate(sorted(layers, key=lambda layer: -totals[layer]), 1):
        weight = "bold" if place <= len(layers) // 3 else "normal"
        ax.annotate(str(place), (layer, totals[layer]), (0, 1.5), fontweight=weight, **text)
    ax.set_xticks(layers[:: max(1, len(layers) // 18)])
    ax.grid(False, axis="x")
    ax.margins(x=0.01, y=0.1)
