"""In how many directions each layer's gate and up move, stage by stage: Figure 5."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gdo_cli.figures import groups, style
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import require, require_one_of

# What each is called, and its dash.
MEASURES = {
    "effective_rank": ("effective rank", "-"),
    "participation_ratio": ("participation ratio", "--"),
    "stable_rank": ("stable rank", ":"),
}
_OF = {"weights": ("change of weights", style.BLUE), "gradients": ("sum of gradients", style.ORANGE)}
_CELL = ("task", "of", "module", "layer", "from_step", "to_step")
Points = list[dict[str, Any]]


@style.styled
def draw(runs: list[RunResult], measure: str = "effective_rank") -> style.Drawing:
    """Draw a column per task; layers on x, training stages on y with the earliest on top, brighter is
    higher.

    Above, the change of the weights between two evaluations (the paper's figure); below it, as a control,
    the sum of the gradients over the same steps, which no optimizer has rescaled. Last, all measures as
    means over the layers. ``measure`` names the one of the maps; seeds are averaged.
    """
    require_one_of("measure", measure, MEASURES)
    by_task = {task: _points(task, members) for task, members in groups.by_setting(runs, "task").items()}
    points = [point for own in by_task.values() for point in own]
    require(bool(points), "none of the runs holds ranks; make one that does: evaluation.ranks=true")
    modules = sorted({p["module"] for p in points}, reverse=True)  # up first, which is what the paper shows
    maps = [(of, module) for of in _OF for module in modules]
    width, height = 1.6 + 2.5 * len(by_task), 1.1 + 1.35 * len(maps) + 1.5
    figure, axes = style.panels(width, height, len(maps) + 1, len(by_task))
    for index, (task, own) in enumerate(by_task.items()):
        *above, last = axes[:, index]
        for ax, (of, module) in zip(above, maps, strict=True):
            _map(ax, [p for p in own if (p["of"], p["module"]) == (of, module)], measure)
            ax.tick_params(labelbottom=ax is above[-1], labelleft=index == 0)
            if index == 0:
                ax.set_ylabel(f"{module.removesuffix('_proj')}: up to step")
        above[0].set_title(groups.named("task", task))
        above[-1].set_xlabel("layer")
        _means(last, own)
        last.tick_params(labelleft=index == 0)
    axes[-1, 0].set_ylabel("mean over layers")
    low, high = zip(*(ax.get_ylim() for ax in axes[-1]), strict=True)
    for ax in axes[-1]:
        ax.set_ylim(min(low), max(high))
    # One range of colours for the changes and one for the gradients, over all tasks and both matrices.
    for index, (of, (label, _)) in enumerate(_OF.items()):
        panels = list(axes[index * len(modules) : (index + 1) * len(modules)].flat)
        values = [p[measure] for p in points if p["of"] == of]
        for ax in panels:
            ax.collections[0].set_clim(min(values), max(values))
        bar = figure.colorbar(panels[0].collections[0], ax=panels, pad=0.01, aspect=22)
        full = max(p["full_rank"] for p in points)
        bar.set_label(f"{label}:\n{MEASURES[measure][0]} (of {full:g})")
        bar.outline.set_visible(False)
    looks = [Line2D([], [], color=color, label=label) for label, color in _OF.values()]
    looks += [Line2D([], [], color=style.GREY, ls=dash, label=label) for label, dash in MEASURES.values()]
    figure.legend(handles=looks, loc="outside upper center", ncols=min(5, int(width / 1.9)))
    style.under(figure, runs)
    return style.Drawing(figure, points)


def _points(task: str, runs: list[RunResult]) -> Points:
    """One record per layer, matrix and stage, the mean over the seeds (and a grown layer's copies)."""
    groups.require_one_setting(runs)
    rows = []
    for run in runs:
        found = [line for line in run.metrics if line["kind"] == "rank"]
        steps = [0, *sorted({int(row["step"]) for row in found})]
        stages = {to: {"task": task, "from_step": since, "to_step": to} for since, to in pairwise(steps)}
        rows += [row | stages[row["step"]] for row in found]
    return groups.means(rows, _CELL, (*MEASURES, "full_rank"))


def _map(ax: Axes, points: Points, measure: str) -> None:
    layers = sorted({p["layer"] for p in points})
    steps = sorted({p["to_step"] for p in points})
    values = {(p["to_step"], p["layer"]): p[measure] for p in points}
    grid = [[values.get((step, layer), math.nan) for layer in layers] for step in steps]
    ax.pcolormesh(range(len(layers) + 1), range(len(steps) + 1), grid, cmap="viridis", rasterized=True)
    every = max(1, math.ceil(len(layers) / 9))
    ax.set_xticks([i + 0.5 for i in range(0, len(layers), every)], layers[::every])
    every = max(1, math.ceil(len(steps) / 5))
    ax.set_yticks([i + 0.5 for i in range(every - 1, len(steps), every)], steps[every - 1 :: every])
    ax.invert_yaxis()
    ax.grid(False)


def _means(ax: Axes, points: Points) -> None:
    """Every measure against the training step, over all layers, gate and up."""
    for of, (_, color) in _OF.items():
        by_step = groups.grouped((p for p in points if p["of"] == of), lambda p: p["to_step"])
        for measure, (_, dash) in MEASURES.items():
            means = [mean(p[measure] for p in same) for same in by_step.values()]
            ax.plot(list(by_step), means, color=color, linestyle=dash)
    ax.set(yscale="log", ylim=(1, None), xlabel="training steps")
