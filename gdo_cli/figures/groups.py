"""Runs as figures show them: told apart by settings, averaged over seeds, named as sources."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from statistics import mean, variance
from typing import Any, TypeVar

from gdo_cli.runs.find import by_id
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats.metrics import INDEX
from gdo_cli.support.errors import UserError, require, require_one_of
from gdo_cli.support.markdown import rate
from gdo_cli.training.config import TrainConfig

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
Analysed = tuple[RunResult, str, dict[str, Any]]
PROBES = (RETENTION, INDEX, "arc_easy/likelihood", "lambada/last_word", "perplexity/loss")

TASKS = {
    "scitail": "Science entailment (SciTail)",
    "qasc": "Science Q&A (QASC)",
    "mathqa": "MathQA",
    "mathqa_gain": "MathQA (trained on a subset)",
    "mtnt": "French translation (MTNT)",
    "mtnt_reverse": "French translation (MTNT, reversed pairs)",
    "multi30k": "French translation (Multi30k)",
}


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the items by their keys, in the order in which the keys first come."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by_setting(runs: Iterable[RunResult], key: str) -> dict[str, list[RunResult]]:
    """Return runs by the value of a setting that all of them have."""
    return grouped(runs, lambda run: str(run.setting(key)))


def line_of(run: RunResult, keys: Sequence[str]) -> str:
    """Return the run's values of those settings that it has: which line of a figure it belongs to."""
    return ", ".join(named(key, run.setting(key)) for key in keys if has(run, key))


def label_of(run: RunResult, key: str) -> str:
    """Return what a line told by one setting is called; a method is by its own label."""
    return run.label if key == "method" else named(key, run.setting(key))


def named(key: str, value: Any) -> str:
    """Return a setting as one would give it (``layers=6``, ``train=new``); tasks and methods need no key."""
    if key in ("task", "method"):
        return TASKS.get(str(value), str(value))
    if key == "train.lr":
        return f"lr={rate(value)}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} × {factor:g}" for name, factor in value.items())
    return f"{key.rpartition('.')[2]}={str(value).lower() if isinstance(value, bool) else value}"


def has(run: RunResult, key: str) -> bool:
    """Return whether there is such a setting to ask a run for.

    A method has its own only; of training, records leave out what came later, where it is as it was before.
    """
    part, _, name = key.partition(".")
    if part == "train" and name in {f.name for f in fields(TrainConfig)}:
        return name in run.record.config["train"]
    return part != "method" or not name or name in run.record.config["method"]


def analysed(runs: list[RunResult], kind: str) -> list[Analysed]:
    """Return runs with a name for each, told from its other seeds, and what ``gdo analyze`` has found."""
    names = distinct_names(runs)
    several = len({run.seed for run in runs}) > 1
    found = []
    for run in runs:
        analysis = run.analysis(kind)
        assert analysis is not None, "gdo plot hands over analysed runs alone"
        found.append((run, names[run.id] + (f", seed {run.seed}" if several else ""), analysis))
    return found


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


def measures(runs: Sequence[RunResult]) -> list[str]:
    """Return the task's score, then the probes that all the runs have been through at the end.

    Raises:
        UserError: tasks with different scores, which no one axis can show.
    """
    scores = sorted({run.task_score for run in runs})
    told = f"the runs are scored by {' and by '.join(scores)}; draw one task at a time: task=…"
    require(len(scores) == 1, told)
    return [*scores, *(probe for probe in PROBES if all(probe in run.final for run in runs))]


def require_measure(metric: str, there: Iterable[str]) -> None:
    """Raise a UserError unless the metric is one of the measures among the keys of evaluations."""
    require_one_of("retention", metric, {key for key in there if "/" in key and not key.endswith("_se")})


def over_seeds(seeds: Sequence[Mapping[str, float]], metric: str) -> dict[str, Any]:
    """Return the mean of a measure over seeds, each given by its scores, its standard error, their number."""
    value = mean(scores[metric] for scores in seeds)
    return {"value": value, "se": standard_error(seeds, metric), "seeds": len(seeds)}


def means(
    rows: Iterable[Mapping[str, Any]], cell: Sequence[str], values: Collection[str]
) -> list[dict[str, Any]]:
    """Return a record for each combination of ``cell`` that rows have, with the means of their values."""
    return [
        dict(zip(cell, key, strict=True)) | {name: mean(row[name] for row in same) for name in values}
        for key, same in grouped(rows, lambda row: tuple(row[name] for name in cell)).items()
    ]


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


def untouched(runs: Iterable[RunResult], metric: str) -> float | None:
    """Return what the model has before training: step 0, on validation items for the task."""
    starts = [run.evaluations[0] for run in runs if run.record.steps and run.evaluations]
    known = [start[metric] for start in starts if metric in start]
    return mean(known) if known else None


def errors_told(what: str, runs: Iterable[RunResult]) -> str:
    """For the line under a figure: what its bars (bands, cross) are."""
    several = any(len(members) > 1 for members in by_id(runs).values())
    return f"{what}: standard errors, over items{' and seeds' if several else ''}"


def sources(runs: Sequence[RunResult]) -> str:
    """Return what a figure rests on: model, data, learning rates, seeds, hardware; for the line under it."""
    data = sorted({str(run.record.data["source"]) for run in runs})
    every = {
        part.get("source") for run in runs for part in run.record.data.values() if isinstance(part, dict)
    }
    beside = " (probes: BUNDLED SAMPLE)" if "sample" in every - set(data) else ""
    seeds = sorted({run.seed for run in runs})
    machines = sorted({str(r.record.machine["gpu"] or r.record.machine["cpu"]) for r in runs})
    parts = [
        ", ".join(sorted({_model(run) for run in runs})),
        "BUNDLED SAMPLE, not the real data" if data == ["sample"] else ", ".join(data) + " data" + beside,
        *_notes(runs),
        *_rates(runs),
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
        f"{len(runs)} run{'s' if len(runs) > 1 else ''} on {' and '.join(machines)}",
    ]
    return " · ".join(parts)


def _notes(runs: Sequence[RunResult]) -> list[str]:
    """What has to be known of a task's rows."""
    noted = {run.name["task"]: run.record.data["note"] for run in runs if "note" in run.record.data}
    return [f"{task}: {note}" for task, note in sorted(noted.items())]


def _rates(runs: Sequence[RunResult]) -> list[str]:
    """The commonest rate and who was trained at another; where a method has several, their span."""
    trained = sorted({(run.record.config["train"]["lr"], run.label) for run in runs if run.record.steps})
    counts = Counter(lr for lr, _ in trained)
    if not counts:
        return []
    if len(trained) > len({label for _, label in trained}):
        return [f"learning rates {rate(min(counts))} to {rate(max(counts))}"]
    usual, *others = (lr for lr, _ in counts.most_common())
    apart = [f"{', '.join(label for r, label in trained if r == lr)}: {rate(lr)}" for lr in others]
    return [f"learning rate {rate(usual)}" + (f" ({'; '.join(apart)})" if apart else "")]


def _model(run: RunResult) -> str:
    """Its name, with the format of quantised weights, which GGUF files and packages carry in theirs."""
    name = str(run.name["model"])
    if "quantisation" not in run.record.weights:
        return name
    model = run.record.config["model"]
    found = re.search(r"q\d_(k_[sml]|\d)", model.get("file") or model["package"], re.IGNORECASE)
    return f"{name} ({found[0].upper() if found else 'GGUF'} weights, dequantised)"
