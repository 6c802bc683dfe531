"""The paper's Table 1: heads shared with the base model, and how alike the function vectors are."""

from __future__ import annotations

from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes

from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.style import GREY, RC, TASKS, line_style, new_figure, sources, under
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.uncertainty import Interval

ANALYSIS = "fv"
Number = dict[str, float]
Published = dict[str, dict[str, tuple[float, float]]]  # by task and method
# Where a measure stands in an analysis, and what it is called.
MEASURES = {
    "overlap": "Heads shared",
    "cosine_base_heads": "Cosine, base's heads",
    "cosine_own_heads": "Cosine, own heads",
}
_CEILING, _FLOOR = "base, other prompts", "random heads"
# Probability of the right answer after solved examples, and after the same with their answers shuffled: where
# the two are alike, the examples teach nothing, and no head can carry what they teach.
SHOWN = "right answer, shots right / shuffled"


def draw(runs: list[RunResult], published: Published | None = None) -> Drawing:
    """Draw a panel per measure, a row per run, and under each task's runs what they are to be read against.

    The ceiling is the base on other prompts, the floor heads drawn at random; bars are bootstrap
    intervals over prompts. ``published`` gives the paper's own numbers by task and method, as
    (heads, cosine), which are shown hollow; it does not say over whose heads its cosine is.
    """
    points: list[dict[str, Any]] = []
    places: list[float] = []  # of the rows, with a gap between tasks
    for task in dict.fromkeys(run.name["task"] for run in runs):
        members = [run for run in runs if run.name["task"] == task]
        names = distinct_names(members)
        seeds = len({run.seed for run in members}) > 1
        for run in members:
            name = names[run.id] + (f", seed {run.seed}" if seeds else "")
            points.append(_point(run, name, (published or {}).get(task, {}).get(run.name["method"])))
        points += _limits(members[0])
        places += [(places[-1] + 1.6 if places else 0) + i for i in range(len(points) - len(places))]
    with rc_context(RC):
        figure = new_figure(8.2, 0.25 * places[-1] + 1.6)
        axes = figure.subplots(1, len(MEASURES), sharey=True, squeeze=False)[0]
        axes[2].sharex(axes[1])
        for ax, (measure, title) in zip(axes, MEASURES.items(), strict=True):
            _panel(ax, points, places, measure)
            ax.set_title(title)
        axes[1].set_xlim(_lowest(points) - 0.03, 1.03)
        axes[0].set_xlim(0, 1.03 * points[0]["of"])
        axes[0].set_xlabel(f"of the {points[0]['of']} most effective")
        axes[0].set_yticks(places, [_name(p) for p in points])
        axes[0].set_ylim(places[-1] + 0.6, -0.6)
        if any(p["published_cosine"] is not None for p in points):
            axes[0].plot([], [], "o", color=GREY, markerfacecolor="none", label="in the paper (Gemma 3 1B)")
            figure.legend(loc="outside upper right")
        under(figure, f"{_in_context(runs)} · {sources(runs)}")
    return Drawing(figure, points, _table(points))


def _found(run: RunResult) -> dict[str, Any]:
    found = run.analysis("fv")
    assert found is not None, "gdo plot hands over analysed runs alone"
    return found


def _point(run: RunResult, name: str, published: tuple[float, float] | None) -> dict[str, Any]:
    heads, cosine = published or (None, None)
    found = _found(run)
    point = _row(run, name, found["run"], "run") | {"method": run.name["method"], "seed": run.seed}
    return point | {"published_overlap": heads, "published_cosine": cosine}


def _limits(run: RunResult) -> list[dict[str, Any]]:
    """The ceiling and the floor, which are the base's and so the same for all runs on a task."""
    found = _found(run)
    floor = {"overlap": found["chance"]["overlap"], "cosine_own_heads": found["chance"]["cosine"]}
    rows = [_row(run, _CEILING, found["ceiling"], "base_other_prompts"), _row(run, _FLOOR, floor)]
    return [
        row | {"method": None, "seed": None, "published_overlap": None, "published_cosine": None}
        for row in rows
    ]


def _in_context(runs: list[RunResult]) -> str:
    """What solved examples tell the base of each task."""
    told = {run.name["task"]: _found(run)["models"]["base"]["right_answer"] for run in runs}
    parts = [f"{task} {right['clean']:.2f} / {right['shuffled']:.2f}" for task, right in told.items()]
    return f"base's {SHOWN}: {', '.join(parts)}"


def _row(run: RunResult, label: str, numbers: dict[str, Number], model: str = "") -> dict[str, Any]:
    found = _found(run)
    row: dict[str, Any] = {"task": run.name["task"], "row": label, "of": found["options"]["heads"]}
    for measure in MEASURES:
        number = numbers.get(measure, {})
        row |= {measure: number.get("value")}
        row |= {f"{measure}_{end}": number.get(end) for end in ("low", "high")}
    right = found["models"][model]["right_answer"] if model else {}
    return row | {f"right_answer_{shots}": right.get(shots) for shots in ("clean", "shuffled")}


def _name(point: dict[str, Any]) -> str:
    task = TASKS.get(point["task"], point["task"])
    short = task.partition(" (")[0]
    return f"{short}: {point['row']}" if point["method"] else str(point["row"])


def _panel(ax: Axes, points: list[dict[str, Any]], places: list[float], measure: str) -> None:
    for row, point in zip(places, points, strict=True):
        value = point[measure]
        if value is None:
            continue
        low, high = point[f"{measure}_low"], point[f"{measure}_high"]
        look = line_style(str(point["method"]), 0)
        if low is not None:
            ax.plot([low, high], [row, row], color=look.color if point["method"] else GREY, linewidth=0.9)
        ax.plot(
            value,
            row,
            marker=look.marker if point["method"] else "|",
            markersize=5 if point["method"] else 9,
            color=look.color if point["method"] else GREY,
            linestyle="none",
        )
        paper = point["published_overlap" if measure == "overlap" else "published_cosine"]
        if paper is not None and measure != "cosine_own_heads":
            ax.plot(paper, row, "o", color=GREY, markerfacecolor="none")
    if measure != "overlap":  # a cosine
        ax.axvline(1, color="#cccccc", linewidth=0.8)


def _lowest(points: list[dict[str, Any]]) -> float:
    """Where the axis of the cosines begins: at zero, or below where a number or an interval is."""
    keys = [f"{m}{end}" for m in MEASURES if m != "overlap" for end in ("", "_low")]
    return min(0.0, *(p[key] for p in points for key in keys if p[key] is not None))


def _table(points: list[dict[str, Any]]) -> list[list[str]]:
    heading = ["task and method", *MEASURES.values(), SHOWN, "paper: heads", "paper: cosine"]
    rows = []
    for point in points:
        cells = [f"{TASKS.get(point['task'], point['task'])}: {point['row']}"]
        for measure in MEASURES:
            cells.append(_cell(point, measure))
        right = [point["right_answer_clean"], point["right_answer_shuffled"]]
        cells.append("–" if right[0] is None else " / ".join(f"{p:.2f}" for p in right))
        cells += [_published(point["published_overlap"]), _published(point["published_cosine"])]
        rows.append(cells)
    return [heading, *rows]


def _published(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _cell(point: dict[str, Any], measure: str) -> str:
    value = point[measure]
    if value is None:
        return "–"
    form, suffix = ("g", f"/{point['of']}") if measure == "overlap" else (".2f", "")
    shown = f"{value:.3g}{suffix}" if measure == "overlap" else f"{value:{form}}"
    low, high = point[f"{measure}_low"], point[f"{measure}_high"]
    return shown if low is None else f"{shown} {Interval(value, low, high).ends(form)}"
