"""In how many directions each layer's gate and up move, stage by stage: Figure 5."""

from __future__ import annotations

import math
from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    RC,
    TASKS,
    new_figure,
    require_one_setting,
    sources,
    under,
)
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError, require_one_of

MEASURES = {
    "effective_rank": "effective rank",
    "participation_ratio": "participation ratio",
    "stable_rank": "stable rank",
}
_OF = {"weights": ("change of weights", BLUE), "gradients": ("sum of gradients", ORANGE)}
_DASHES = {"effective_rank": "-", "participation_ratio": "--", "stable_rank": ":"}


def draw(runs: list[RunResult], measure: str = "effective_rank") -> Drawing:
    """Draw a column per task; layers on x, training stages on y with the earliest on top, brighter is
    higher.

    Above, the change of the weights between two evaluations (the paper's figure); below it, as a control,
    the sum of the gradients over the same steps, which no optimizer has rescaled. Last, all measures as
    means over the layers. ``measure`` names the one of the maps; seeds are averaged.
    """
    require_one_of("measure", measure, MEASURES)
    by_task: dict[str, list[RunResult]] = {}
    for run in runs:
        by_task.setdefault(run.name["task"], []).append(run)
    points = [point for task, members in by_task.items() for point in _points(task, members)]
    if not points:
        raise UserError("none of the runs holds ranks; make one that does: evaluation.ranks=true")
    modules = sorted({p["module"] for p in points}, reverse=True)  # up first, which is what the paper shows
    maps = [(of, module) for of in _OF for module in modules]
    with rc_context(RC):
        figure = new_figure(1.6 + 2.5 * len(by_task), 1.1 + 1.35 * len(maps) + 1.5)
        axes = figure.subplots(len(maps) + 1, len(by_task), squeeze=False)
        for column, task in enumerate(by_task):
            own = [p for p in points if p["task"] == task]
            for row, (of, module) in enumerate(maps):
                ax = axes[row, column]
                _map(ax, [p for p in own if (p["of"], p["module"]) == (of, module)], measure)
                ax.tick_params(labelbottom=row == len(maps) - 1, labelleft=column == 0)
                if column == 0:
                    ax.set_ylabel(f"{module.removesuffix('_proj')}: up to step")
            axes[0, column].set_title(TASKS.get(task, task))
            axes[len(maps) - 1, column].set_xlabel("layer")
            _means(axes[-1, column], own)
            axes[-1, column].tick_params(labelleft=column == 0)
        axes[-1, 0].set_ylabel("mean over layers")
        low, high = zip(*(ax.get_ylim() for ax in axes[-1]), strict=True)
        for ax in axes[-1]:
            ax.set_ylim(min(low), max(high))
        _scales(figure, axes, maps, points, measure)
        _legend(figure)
        under(figure, sources(runs))
    return Drawing(figure, points)


def _points(task: str, runs: list[RunResult]) -> list[dict[str, Any]]:
    """One record per layer, matrix and stage, the mean over the seeds (and a grown layer's copies)."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    require_one_setting(runs)
    for run in runs:
        rows = [line for line in run.metrics if line["kind"] == "rank"]
        steps = [0, *sorted({int(row["step"]) for row in rows})]
        since = dict(zip(steps[1:], steps, strict=False))
        for row in rows:
            key = (row["of"], row["module"], row["layer"], since[row["step"]], row["step"])
            cells.setdefault(key, []).append(row)
    names = ("of", "module", "layer", "from_step", "to_step")
    return [
        {"task": task}
        | dict(zip(names, key, strict=True))
        | {name: mean(row[name] for row in rows) for name in (*MEASURES, "full_rank")}
        for key, rows in cells.items()
    ]


def _map(ax: Axes, points: list[dict[str, Any]], measure: str) -> None:
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


def _scales(
    figure: Figure, axes: Any, maps: list[tuple[str, str]], points: list[dict[str, Any]], measure: str
) -> None:
    """One range of colours for the changes and one for the gradients, over all tasks and both matrices."""
    full = max(p["full_rank"] for p in points)
    for of, (label, _) in _OF.items():
        values = [p[measure] for p in points if p["of"] == of]
        rows = [axes[row] for row, (kind, _) in enumerate(maps) if kind == of]
        meshes = [ax.collections[0] for row in rows for ax in row]
        for mesh in meshes:
            mesh.set_clim(min(values), max(values))
        bar = figure.colorbar(meshes[0], ax=[ax for row in rows for ax in row], pad=0.01, aspect=22)
        bar.set_label(f"{label}:\n{MEASURES[measure]} (of {full:g})")
        bar.outline.set_visible(False)


def _means(ax: Axes, points: list[dict[str, Any]]) -> None:
    """Every measure against the training step, over all layers, gate and up."""
    for of, (_, color) in _OF.items():
        for measure, dashes in _DASHES.items():
            by_step: dict[int, list[float]] = {}
            for point in points:
                if point["of"] == of:
                    by_step.setdefault(point["to_step"], []).append(point[measure])
            ax.plot(list(by_step), [mean(v) for v in by_step.values()], color=color, linestyle=dashes)
    ax.set_yscale("log")
    ax.set_ylim(bottom=1)
    ax.set_xlabel("training steps")


def _legend(figure: Figure) -> None:
    """What the lines' colours and dashes stand for."""
    looks = [Line2D([], [], color=color, label=label) for label, color in _OF.values()]
    looks += [Line2D([], [], color=GREY, ls=_DASHES[m], label=label) for m, label in MEASURES.items()]
    figure.legend(handles=looks, loc="outside upper center", ncols=min(5, int(figure.get_figwidth() / 1.9)))
