"""``gdo ls``: run folders filtered, grouped, and averaged, whatever has become of the runs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from gdo_cli.runs.folder import FAILURE, RunFolder
from gdo_cli.runs.record import RETENTION, RunResult, read_run
from gdo_cli.stats.metrics import INDEX
from gdo_cli.stats.uncertainty import Interval, plus_minus
from gdo_cli.support.errors import UserError, require, require_one_of, suggest
from gdo_cli.support.markdown import rate, table

KEYS = ("model", "task", "method", "layers", "seed", "status")
STATUSES = ("done", "running", "failed", "unfinished")
Cell = Any  # str, int, float, None, or the Interval of a mean over runs
Row = dict[str, Cell]


@dataclass(frozen=True)
class Listed:
    """A run folder.

    Attributes:
        name: the chosen option of each group.
        config: every setting that decides the run, as in its config.yaml.
        status: ``done``; ``running``, while a process holds it; ``failed``; or ``unfinished``.
        why: what failed, or what is wrong with the folder.
        result: of a run that is done.
    """

    path: Path
    name: dict[str, str]
    config: dict[str, Any]
    status: str
    why: str = ""
    result: RunResult | None = None

    @property
    def title(self) -> str:
        """E.g. ``scitail/g_freeze-1a2b3c4d/seed0``."""
        return "/".join(self.path.parts[-3:])

    @property
    def family(self) -> str:
        """What the seeds of a run share of its title."""
        return self.title.rpartition("/")[0]

    def setting(self, key: str) -> Any:
        """Return a filter's key, or a setting by its dotted name (``train.lr``); None where there is none."""
        if key == "status":
            return self.status
        value: Any = self.name | self.config if key not in self.name else self.name
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def listed(results_dir: Path, filters: Sequence[str]) -> tuple[list[Listed], dict[str, int]]:
    """Return the runs below the folder that the filters let through, by name.

    Args:
        filters: ``key=value,value``, each value a word, a number, or a pattern such as ``g_*``. Where none
            is of the status, runs that are not done are only counted.
    Returns:
        The runs, and how many others there are by their status.
    Raises:
        UserError: what is no filter, or names a key that no run has; or no such folder, but for the default
            one, which the first run makes.
    """
    there = results_dir.is_dir() or results_dir == Path("results")
    require(there, f"--results {results_dir}: no such folder")
    wanted = [_filter(word) for word in filters]
    folders = sorted(results_dir.glob("runs/*/*/*/seed*/"))
    runs = [run for folder in folders if (run := read_folder(folder)) is not None]
    for key, _ in wanted:
        known = key in KEYS or not runs or any(run.setting(key) is not None for run in runs)
        require(known, f"{key}: no run has such a setting; {suggest(key, [*KEYS, 'train.lr', 'method.k'])}")
    runs = [run for run in runs if all(_lets_through(run, key, values) for key, values in wanted)]
    if any(key == "status" for key, _ in wanted):
        return runs, {}
    others = Counter(run.status for run in runs if run.status != "done")
    return [run for run in runs if run.status == "done"], dict(others)


def _filter(word: str) -> tuple[str, list[str]]:
    key, equals, values = word.partition("=")
    require(
        bool(key and equals and values), f"{word}: not a filter; they are written key=value, e.g. task=qasc"
    )
    alternatives = [values] if values.startswith("[") else values.split(",")
    if key == "status":
        for value in alternatives:
            if "*" not in value:
                require_one_of("status", value, STATUSES)
    return key, alternatives


def _lets_through(run: Listed, key: str, values: list[str]) -> bool:
    found = run.setting(key)
    text = "".join(str(found).split())
    return any(
        fnmatchcase(text, value) or text == "".join(value.split()) or _equal(found, value) for value in values
    )


def _equal(found: Any, value: str) -> bool:
    try:
        return not isinstance(found, bool) and float(found) == float(value)
    except (TypeError, ValueError):
        return str(found).lower() == value.lower()


def read_folder(folder: Path) -> Listed | None:
    """Return what a run folder holds; None if it has not been begun."""
    if (folder / "result.json").is_file():
        try:
            run = read_run(folder)
            return Listed(folder, run.name, run.record.config, "done", result=run)
        except UserError as error:
            return _begun(folder, "failed", str(error))
    if RunFolder(folder).is_held():
        return _begun(folder, "running", "")
    try:
        return _begun(folder, "failed", str(json.loads((folder / FAILURE).read_text("utf-8"))["error"]))
    except FileNotFoundError:
        return _begun(folder, "unfinished", "")
    except (OSError, ValueError, KeyError, TypeError):
        return _begun(folder, "failed", "for a reason that cannot be read")


def _begun(folder: Path, status: str, why: str) -> Listed | None:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
        return Listed(folder, dict(content.pop("name")), content, status, why)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        if not why:
            return None  # locked at most: nothing is known of it
        model, task, method = folder.parts[-4:-1]
        return Listed(
            folder, {"model": model, "task": task, "method": method.rpartition("-")[0]}, {}, status, why
        )


# ------------------------------------------------------------------------------------------------ rows


def measures(runs: Sequence[Listed], asked: Sequence[str] | None) -> Sequence[str]:
    """Return what to show beside the task's score: what was asked for, else what is kept of WinoGrande,
    and the retention index where there is one.

    Raises:
        UserError: a measure that none of the runs has.
    """
    there = {key for run in runs if run.result for key in run.result.final if not key.endswith("_se")}
    for metric in asked or ():
        require(metric in there or not there, f"--metric {metric}: no run has it; {suggest(metric, there)}")
    return asked or [RETENTION, *([INDEX] if INDEX in there else [])]


def run_rows(runs: Sequence[Listed], metrics: Sequence[str] = (RETENTION,)) -> list[Row]:
    """Return a row for each run; its status and why, where not all are done."""
    rows = [_run_row(run, metrics) for run in runs]
    beside = ("status", "why") if all(run.status == "done" for run in runs) else ()
    return [{key: cell for key, cell in row.items() if key not in beside} for row in rows]


def _run_row(run: Listed, metrics: Sequence[str]) -> Row:
    record = run.result.record if run.result else None
    lr = run.setting("train.lr")
    return {
        "run": run.title,
        "model": run.name["model"],
        "data": record.data["source"] if record else run.setting("data.source"),
        "lr": None if lr is None else rate(lr),
        "trained %": 100 * record.parameters.trainable_share if record else None,
        "task score": _score(run),
        **{metric: run.result.final.get(metric) if run.result else None for metric in metrics},
        "minutes": record.wall_seconds / 60 if record else None,
        "status": run.status,
        "why": run.why,
    }


def _score(run: Listed) -> float | None:
    return run.result.final.get(run.result.task_score) if run.result else None


def mean_rows(
    runs: Sequence[Listed], by: str | None = None, metrics: Sequence[str] = (RETENTION,)
) -> list[Row]:
    """Return a row for each combination of the values of some keys, with means over its runs.

    Args:
        by: the keys, as filters take them, with commas; None: what differs in its seed alone is one row.
    Raises:
        UserError: a key that no run has.
    """
    keys = [key.strip() for key in by.split(",")] if by else []
    for key in keys:
        known = not runs or any(run.setting(key) is not None for run in runs)
        require(known, f"--by {key}: no run has such a setting; {suggest(key, KEYS)}")
    groups: dict[tuple[str, ...], list[Listed]] = {}
    for run in runs:
        own = (
            {key: run.setting(key) for key in keys}
            if keys
            else {"run": run.family, "model": run.name["model"]}
        )
        groups.setdefault(tuple(map(str, own.values())), []).append(run)
    counts = ("runs", "settings") if keys else ("runs",)
    return [
        dict(zip(keys or ("run", "model"), values, strict=True))
        | {count: len({_counted(run, count) for run in members}) for count in counts}
        | _means(members, metrics)
        for values, members in groups.items()
    ]


def _counted(run: Listed, count: str) -> Path:
    """Runs, or what they are of, their seeds apart."""
    return run.path if count == "runs" else run.path.parent


def _means(runs: Sequence[Listed], metrics: Sequence[str]) -> Row:
    results = [run.result for run in runs if run.result]
    scores = {result.task_score for result in results}
    same_score = [result.final.get(result.task_score) for result in results] if len(scores) == 1 else []
    return {
        "task score": interval(same_score),
        **{metric: interval([result.final.get(metric) for result in results]) for metric in metrics},
        "minutes": mean(r.record.wall_seconds / 60 for r in results) if results else None,
    }


def interval(values: Sequence[float | None]) -> Interval | None:
    """Return the mean with its 95 % confidence interval (Student's t); None unless every run has the
    value."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if len(known) == 1:
        return Interval.unbounded(known[0])
    from gdo_cli.stats.seeds import seed_mean

    return seed_mean(known)


# ---------------------------------------------------------------------------------------------- output


def cell_text(key: str, cell: Cell) -> str:
    """Return a cell for people."""
    if cell is None:
        return "–"
    if key in ("trained %", "minutes"):
        return f"{cell:.1f}"
    if isinstance(cell, Interval):
        return plus_minus(cell.value, cell.half)
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def as_markdown(rows: Sequence[Row]) -> str:
    heading = list(rows[0]) if rows else []
    return table(heading, ([cell_text(key, cell) for key, cell in row.items()] for row in rows)) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Return the numbers as they are; a mean in three columns, itself and the ends of its interval."""
    stream = io.StringIO()
    plain = [_flat(row, {k for r in rows for k, v in r.items() if isinstance(v, Interval)}) for row in rows]
    writer = csv.DictWriter(stream, fieldnames=list(plain[0]) if plain else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return stream.getvalue()


def _flat(row: Row, means: set[str]) -> Row:
    flat: Row = {}
    for key, cell in row.items():
        flat[key] = cell.value if isinstance(cell, Interval) else cell
        if key in means:
            half = cell.half if isinstance(cell, Interval) else math.inf
            flat[f"{key} low"], flat[f"{key} high"] = (
                (None, None) if math.isinf(half) else (cell.value - half, cell.value + half)
            )
    return flat
