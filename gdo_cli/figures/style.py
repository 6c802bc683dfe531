"""What all figures share: colours that colour-blind readers tell apart, names, the line of sources."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from statistics import mean, variance
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gdo_cli.runs.find import by_id
from gdo_cli.runs.guessing import guessing
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats.metrics import EXACT_MATCH, INDEX, Metric, measure_named
from gdo_cli.support.errors import UserError, require, require_one_of, suggest
from gdo_cli.support.markdown import rate

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
    "pdf.fonttype": 42,
}

TASKS = {
    "scitail": "Science entailment (SciTail)",
    "qasc": "Science Q&A (QASC)",
    "mathqa": "MathQA",
    "mathqa_gain": "MathQA (trained on a subset)",
    "mtnt": "French translation (MTNT)",
    "multi30k": "French translation (Multi30k)",
}
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


PROBES = (RETENTION, INDEX, "arc_easy/likelihood", "lambada/last_word", "perplexity/loss")


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


def line_of(run: RunResult, keys: Sequence[str]) -> str:
    """Return the run's values of those settings that it has: which line of a figure it belongs to."""
    return ", ".join(named(key, field(run, key)) for key in keys if has(run, key))


def label_of(run: RunResult, key: str) -> str:
    """Return what a line told by one setting is called; a method is by its own label."""
    return run.label if key == "method" else named(key, field(run, key))


def new_figure(width: float, height: float) -> Figure:
    with rc_context(RC):
        return Figure(figsize=(width, height), layout="constrained")


def name_of(metric: str) -> str:
    found = measure_named(metric)
    return found.title if isinstance(found, Metric) else MEASURES.get(metric, metric)


def field(run: RunResult, key: str) -> Any:
    """Return a setting of a run by dotted name: ``task``, ``method``, ``layers``, ``train.lr``, …

    Raises:
        UserError: the run has no such setting.
    """
    if key in run.name:
        return run.name[key]
    value: Any = run.record.config
    above = ""
    for part in key.split("."):
        there = value if isinstance(value, dict) else {}
        if part not in there:
            nearest = suggest(key, [f"{above}{name}" for name in (there if above else {**there, **run.name})])
            raise UserError(f"{run.title} has no setting {key!r} to tell runs apart by; {nearest}")
        value = there[part]
        above += f"{part}."
    return value


def measures(runs: Sequence[RunResult]) -> list[str]:
    """Return the task's score, then the probes that all the runs have been through at the end.

    Raises:
        UserError: tasks with different scores, which no one axis can show.
    """
    scores = sorted({run.task_score for run in runs})
    require(
        len(scores) == 1, f"the runs are scored by {' and by '.join(scores)}; draw one task at a time: task=…"
    )
    return [*scores, *(probe for probe in PROBES if all(probe in run.final for run in runs))]


def require_measure(metric: str, there: Iterable[str]) -> None:
    """Raise a UserError unless the metric is one of the measures among the keys of evaluations."""
    require_one_of("retention", metric, {key for key in there if "/" in key and not key.endswith("_se")})


def named(key: str, value: Any) -> str:
    """Return a setting as one would give it (``layers=6``, ``train=new``); tasks and methods need no key."""
    if key in ("task", "method"):
        return TASKS.get(str(value), str(value))
    if key == "train.lr":
        return f"lr={rate(value)}"
    return f"{key.rpartition('.')[2]}={str(value).lower() if isinstance(value, bool) else value}"


def has(run: RunResult, key: str) -> bool:
    """Return whether there is such a setting to ask :func:`field` for: a method has its own only."""
    return not key.startswith("method.") or key.removeprefix("method.") in run.record.config["method"]


def require_one_setting(runs: Sequence[RunResult], **told: Any) -> None:
    """Raise a UserError unless runs of which a figure would show the mean differ in their seed alone.

    ``told`` are the figure's options that tell runs apart, with what they are set to.
    """
    if len({run.id for run in runs}) == 1:
        return
    differing = list(_differences(runs).items()) or [("id", [run.id for run in runs])]
    first, values = differing[0]
    shown = "; ".join(f"{key}: {', '.join(found[:4])}" for key, found in differing[:3])
    options = ", ".join(f"{name}: {value}" for name, value in told.items())
    apart = f", or tell them apart in the figure ({options}), as by lines: {first}" if told else ""
    raise UserError(
        f"{runs[0].label} on {runs[0].name['task']}: runs of different settings would be averaged as if "
        f"they were seeds ({shown}); draw one at a time, as by {first}={values[0]}{apart}"
    )


def _differences(runs: Sequence[RunResult]) -> dict[str, list[str]]:
    """The settings that tell the runs apart, with their values; of another model or method the name alone."""
    settings = [
        {key: run.name[key] for key in ("model", "task", "method")} | dict(_flat(run.record.config))
        for run in runs
    ]
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for own in settings for key in own):
        values = list(dict.fromkeys(own.get(key, "–") for own in settings))
        if len(values) > 1 and key != "seed" and key.partition(".")[0] not in found:
            found[key] = values
    return found


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Settings by dotted name, as one would give them."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        elif not key.startswith("_"):
            yield above + key, rate(value) if key == "lr" else str(value)


def standard_error(seeds: Sequence[Mapping[str, float]], metric: str) -> float:
    """Of the mean over seeds, each given by its scores: the root of (error over seeds² + error over items²).

    All seeds answer the same items, so more of them do not lessen the error over items: it is that of one
    run (the root of the mean square). An upper bound, for what items add to a single run's score is in the
    spread over seeds too. Without a second seed nothing is known of that spread, and the first term is zero.
    """
    over_items = [float(scores.get(f"{metric}_se", 0.0)) for scores in seeds]
    squared = mean(0.0 if math.isnan(error) else error**2 for error in over_items)
    if len(seeds) > 1:
        squared += variance(scores[metric] for scores in seeds) / len(seeds)
    return math.sqrt(squared)


def errors_told(what: str, runs: Iterable[RunResult]) -> str:
    """For the line under a figure: what its bars (bands, cross) are."""
    several = any(len(members) > 1 for members in by_id(runs).values())
    return f"{what}: standard errors, over items{' and seeds' if several else ''}"


def from_zero(ax: Axes) -> None:
    """Let the scale begin at zero, with room below for the whole of a point that lies there."""
    _, top = ax.get_ylim()
    ax.set_ylim(-0.03 * top, top)


def draw_guessing(ax: Axes, runs: Sequence[RunResult], metric: str) -> None:
    """The level of who knows nothing, where the panel's metric has one."""
    level = guessing(runs) if metric == EXACT_MATCH.key else None
    if level is not None:
        ax.axhline(level, color=GREY, linestyle="-.", linewidth=0.8, label="guessing")


def sources(runs: Iterable[RunResult]) -> str:
    """Return what a figure rests on: model, data, learning rates, seeds, hardware; for the line under it."""
    runs = list(runs)
    models = sorted({_model(run) for run in runs})
    data = sorted({str(run.record.data["source"]) for run in runs})
    seeds = sorted({run.seed for run in runs})
    machines = sorted({str(r.record.machine["gpu"] or r.record.machine["cpu"]) for r in runs})
    parts = [
        ", ".join(models),
        "BUNDLED SAMPLE, not the real data" if data == ["sample"] else ", ".join(data) + " data",
        *_rates(runs),
        f"seed{_s(seeds)} {', '.join(map(str, seeds))}",
        f"{len(runs)} run{_s(runs)} on {' and '.join(machines)}",
    ]
    return " · ".join(parts)


def _rates(runs: Sequence[RunResult]) -> list[str]:
    """The commonest rate and who was trained at another; where a method has several, their span."""
    trained = sorted({(run.record.config["train"]["lr"], run.label) for run in runs if run.record.steps})
    counts = Counter(lr for lr, _ in trained)
    if not counts:
        return []
    if len(trained) > len({label for _, label in trained}):
        return [f"learning rates {rate(min(counts))} to {rate(max(counts))}"]
    usual, *others = (lr for lr, _ in counts.most_common())
    named = [f"{', '.join(label for r, label in trained if r == lr)}: {rate(lr)}" for lr in others]
    return [f"learning rate {rate(usual)}" + (f" ({'; '.join(named)})" if named else "")]


def _model(run: RunResult) -> str:
    """Its name, with the format of quantised weights, which GGUF files and packages carry in theirs."""
    name = str(run.name["model"])
    if "quantisation" not in run.record.weights:
        return name
    model = run.record.config["model"]
    found = re.search(r"q\d_(k_[sml]|\d)", model.get("file") or model["package"], re.IGNORECASE)
    return f"{name} ({found[0].upper() if found else 'GGUF'} weights, dequantised)"


def _s(items: Sized) -> str:
    return "" if len(items) == 1 else "s"


def legend_above(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend for all panels, in as many columns as its longest label leaves room for."""
    widest = 0.6 + text_width(labels)  # with the line before it
    columns = max(1, min(len(labels), int(figure.get_figwidth() / widest)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def text_width(labels: Iterable[str]) -> float:
    """About how wide the longest of them is, in inches."""
    return 0.075 * max(map(len, labels), default=0)


def under(figure: Figure, text: str) -> None:
    """The line of sources under a figure, broken to its width."""
    lines = textwrap.fill(text, width=int(17 * figure.get_figwidth()))
    figure.supxlabel(lines, fontsize=6.5, color=GREY, x=0.01, ha="left")
