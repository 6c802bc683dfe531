"""The paper's Table 1: heads shared with the base model, and how alike the function vectors are."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from gdo_cli.figures import groups, style
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.outcomes import Interval

ANALYSIS = "fv"
Published = dict[str, dict[str, tuple[float, float]]]  # by task and method
# Where a measure stands in an analysis, and what it is called.
MEASURES = {
    "overlap": "Heads shared",
    "cosine_base_heads": "Cosine, base's heads",
    "cosine_own_heads": "Cosine, own heads",
}
# Probability of the right answer after solved examples, and after the same with their answers shuffled: where
# the two are alike, the examples teach nothing, and no head can carry what they teach.
SHOWN = "right answer, shots right / shuffled"


@style.styled
def draw(runs: list[RunResult], published: Published | None = None) -> style.Drawing:
    """Draw a panel per measure, a row per run, and under each task's runs what they are to be read against.

    The ceiling is the base on other prompts, the floor heads drawn at random; bars are bootstrap
    intervals over prompts. ``published`` gives the paper's own numbers by task and method, as
    (heads, cosine), which are shown hollow; it does not say over whose heads its cosine is.
    """
    points: list[dict[str, Any]] = []
    names: list[str] = []
    told: list[str] = []  # what solved examples tell the base
    places: list[float] = []  # of the rows, with a gap between tasks
    for task, members in groups.by_setting(runs, "task").items():
        analyses = groups.analysed(members, ANALYSIS)
        own, short = _points(task, analyses, published or {}), groups.named("task", task).partition(" (")[0]
        places += [(places[-1] + 1.6 if places else 0) + i for i in range(len(own))]
        names += [f"{short}: {point['row']}" if point["method"] else point["row"] for point in own]
        points += own
        right = analyses[-1][2]["models"]["base"]["right_answer"]
        told.append(f"{task} {right['clean']:.2f} / {right['shuffled']:.2f}")
    figure, (axes,) = style.panels(8.2, 0.25 * places[-1] + 1.6, 1, len(MEASURES), sharey=True)
    axes[2].sharex(axes[1])
    for ax, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        for place, point in zip(places, points, strict=True):
            if point[measure] is not None:
                _mark(ax, place, point, measure)
        if measure != "overlap":  # a cosine
            ax.axvline(1, color="#cccccc", linewidth=0.8)
        ax.set_title(title)
    # The axis of the cosines begins at zero, or below where a number or an interval is.
    ends = (p[f"{m}{end}"] for p in points for m in MEASURES if m != "overlap" for end in ("", "_low"))
    axes[1].set_xlim(min(0.0, *(end for end in ends if end is not None)) - 0.03, 1.03)
    axes[0].set(xlim=(0, 1.03 * points[0]["of"]), xlabel=f"of the {points[0]['of']} most effective")
    axes[0].set_yticks(places, names)
    axes[0].set_ylim(places[-1] + 0.6, -0.6)
    if any(point["published_cosine"] is not None for point in points):
        axes[0].plot([], [], "o", color=style.GREY, markerfacecolor="none", label="in the paper (Gemma 3 1B)")
        figure.legend(loc="outside upper right")
    style.under(figure, runs, f"base's {SHOWN}: {', '.join(told)}")
    heading = ["task and method", *MEASURES.values(), SHOWN, "paper: heads", "paper: cosine"]
    return style.Drawing(figure, points, [heading, *map(_cells, points)])


def _points(task: str, found: list[groups.Analysed], published: Published) -> list[dict[str, Any]]:
    """A record for each run, and the ceiling and the floor, which are the base's and so the same for all."""

    def record(label: str, analysis: dict[str, Any], numbers: Any, model: str | None) -> dict[str, Any]:
        found = {"task": task, "row": label, "of": analysis["options"]["heads"]}
        for measure in MEASURES:
            number = numbers.get(measure, {})
            found |= {measure: number.get("value")}
            found |= {f"{measure}_{end}": number.get(end) for end in ("low", "high")}
        right = analysis["models"][model]["right_answer"] if model else {}
        found |= {f"right_answer_{shots}": right.get(shots) for shots in ("clean", "shuffled")}
        return found | dict.fromkeys(("method", "seed", "published_overlap", "published_cosine"))

    points = []
    for run, name, analysis in found:
        method = run.name["method"]
        heads, cosine = published.get(task, {}).get(method, (None, None))
        told = {"method": method, "seed": run.seed, "published_overlap": heads, "published_cosine": cosine}
        points.append(record(name, analysis, analysis["run"], "run") | told)
    first = found[0][2]
    floor = {"overlap": first["chance"]["overlap"], "cosine_own_heads": first["chance"]["cosine"]}
    points.append(record("base, other prompts", first, first["ceiling"], "base_other_prompts"))
    points.append(record("random heads", first, floor, None))
    return points


def _mark(ax: Axes, place: float, point: dict[str, Any], measure: str) -> None:
    """The value with its interval, and the paper's."""
    look = style.line_style(point["method"], 0)
    color, marker, size = (look.color, look.marker, 5) if point["method"] else (style.GREY, "|", 9)
    low, high = point[f"{measure}_low"], point[f"{measure}_high"]
    if low is not None:
        ax.plot([low, high], [place, place], color=color, linewidth=0.9)
    ax.plot(point[measure], place, marker=marker, markersize=size, color=color, linestyle="none")
    paper = point["published_overlap" if measure == "overlap" else "published_cosine"]
    if paper is not None and measure != "cosine_own_heads":
        ax.plot(paper, place, "o", color=style.GREY, markerfacecolor="none")


def _cells(point: dict[str, Any]) -> list[str]:
    """A row of the table."""
    cells = [f"{groups.named('task', point['task'])}: {point['row']}"]
    for measure in MEASURES:
        form, of = (".3g", f"/{point['of']}") if measure == "overlap" else (".2f", "")
        low, high = point[f"{measure}_low"], point[f"{measure}_high"]
        ends = "" if low is None else " " + Interval(0, low, high).ends("g" if of else ".2f")
        cells.append("–" if point[measure] is None else f"{point[measure]:{form}}{of}{ends}")
    right = [point["right_answer_clean"], point["right_answer_shuffled"]]
    cells.append("–" if right[0] is None else " / ".join(f"{p:.2f}" for p in right))
    return [*cells, *(style.number(point[f"published_{of}"], "g") for of in ("overlap", "cosine"))]
