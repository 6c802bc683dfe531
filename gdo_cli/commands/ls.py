"""``gdo ls``: run folders filtered, grouped, and averaged, whatever has become of the runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import RETENTION, RunResult, look_up
from gdo_cli.stats.metrics import INDEX
from gdo_cli.stats.outcomes import Interval, plus_minus
from gdo_cli.support.errors import UserError, require, require_one_of, suggest
from gdo_cli.support.markdown import csv_text, rate, table

KEYS = ("model", "task", "method", "layers", "seed", "status")
STATUSES = ("done", "running", "failed", "unfinished")
Cell = Any  # str, int, float, None, or the Interval of a mean over runs
Row = dict[str, Cell]
TASK_SCORE = "task score"


@dataclass(frozen=True)
class Listed:
    """A run folder."""

    path: Path
    name: dict[str, str]  # the chosen option of each group
    config: dict[str, Any]  # every setting that decides the run, as in its config.yaml
    status: str  # one of STATUSES; ``running``: a process holds it
    why: str = ""  # what failed, or what is wrong with the folder
    result: RunResult | None = None  # of a run that is done

    def setting(self, key: str) -> Any:
        """Return a filter's key, or a setting by its dotted name (``train.lr``); None where there is none."""
        with suppress(UserError):
            return self.status if key == "status" else look_up(key, self.name, self.config)
        return None


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
        if key not in KEYS:
            _require_setting(runs, key, key, [*KEYS, "train.lr", "method.k"])
    runs = [run for run in runs if all(_lets_through(run, key, values) for key, values in wanted)]
    if any(key == "status" for key, _ in wanted):
        return runs, {}
    others = Counter(run.status for run in runs if run.status != "done")
    return [run for run in runs if run.status == "done"], dict(others)


def _filter(word: str) -> tuple[str, list[str]]:
    key, _, values = word.partition("=")
    require(bool(key and values), f"{word}: not a filter; they are written key=value, e.g. task=qasc")
    alternatives = [values] if values.startswith("[") else values.split(",")
    for value in alternatives if key == "status" else ():
        if "*" not in value:
            require_one_of("status", value, STATUSES)
    return key, alternatives


def _require_setting(runs: Sequence[Listed], asked: str, key: str, known: Sequence[str]) -> None:
    there = not runs or any(run.setting(key) is not None for run in runs)
    require(there, f"{asked}: no run has such a setting; {suggest(key, known)}")


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


def read_folder(path: Path) -> Listed | None:
    """Return what a run folder holds; None if it has not been begun."""
    folder = RunFolder(path)
    try:
        if run := folder.load():
            return Listed(path, run.name, run.record.config, "done", result=run)
        held = folder.is_held()
        why = None if held else folder.failure()
    except UserError as error:
        held, why = False, str(error)
    status = "running" if held else "unfinished" if why is None else "failed"
    try:
        config = yaml.safe_load((path / "config.yaml").read_text("utf-8"))
        return Listed(path, dict(config.pop("name")), config, status, why or "")
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        if why is None:
            return None  # locked at most: nothing is known of it
        model, task, method = path.parts[-4:-1]
        return Listed(
            path, {"model": model, "task": task, "method": method.rpartition("-")[0]}, {}, status, why
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
    rows: list[Row] = []
    for run in runs:
        record, lr = run.result and run.result.record, run.setting("train.lr")
        rows.append(
            {
                "run": "/".join(run.path.parts[-3:]),
                "model": run.name["model"],
                "data": record.data["source"] if record else run.setting("data.source"),
                "lr": None if lr is None else rate(lr),
                "trained %": 100 * record.parameters.trainable_share if record else None,
                TASK_SCORE: run.result.final.get(run.result.task_score) if run.result else None,
                **{metric: run.result.final.get(metric) if run.result else None for metric in metrics},
                "minutes": record.wall_seconds / 60 if record else None,
            }
        )
    if any(run.status != "done" for run in runs):
        rows = [row | {"status": run.status, "why": run.why} for row, run in zip(rows, runs, strict=True)]
    return rows


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
        _require_setting(runs, f"--by {key}", key, KEYS)
    groups: dict[tuple[str, ...], list[Listed]] = {}
    for run in runs:
        own = [run.setting(key) for key in keys] or ["/".join(run.path.parts[-3:-1]), run.name["model"]]
        groups.setdefault(tuple(map(str, own)), []).append(run)
    rows = []
    for values, members in groups.items():
        row: Row = dict(zip(keys or ("run", "model"), values, strict=True)) | {"runs": len(members)}
        if keys:
            row["settings"] = len({run.path.parent for run in members})  # their seeds apart
        results = [run.result for run in members if run.result]
        one_score = len({result.task_score for result in results}) == 1
        row[TASK_SCORE] = interval([r.final.get(r.task_score) for r in results]) if one_score else None
        row |= {metric: interval([result.final.get(metric) for result in results]) for metric in metrics}
        row["minutes"] = mean(r.record.wall_seconds / 60 for r in results) if results else None
        rows.append(row)
    return rows


def interval(values: Sequence[float | None]) -> Interval | None:
    """Return the mean with its 95 % interval (Student's t); None unless every run has the value."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if len(known) == 1:
        return Interval.unbounded(known[0])
    from gdo_cli.stats.intervals import seed_mean  # SciPy takes longer to import than a listing without means

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


def as_plain(row: Row) -> Row:
    """Return a row as ``--json`` has it: names without spaces, a mean with the ends of its interval."""
    plain: Row = {}
    for key, cell in row.items():
        name = key.replace("%", "percent").replace(" ", "_")
        if isinstance(cell, Interval):
            plain[name] = cell.to_dict()
        else:
            plain[name] = float(cell) if key == "lr" and cell is not None else cell
    return plain


def as_csv(rows: Sequence[Row]) -> str:
    """Return the numbers as they are; a mean in three columns, itself and the ends of its interval."""
    means = {key for row in rows for key, cell in row.items() if isinstance(cell, Interval)}
    return csv_text([_numbers(row, means) for row in rows])


def _numbers(row: Row, means: set[str]) -> Row:
    plain: Row = {}
    for key, cell in row.items():
        plain[key] = cell.value if isinstance(cell, Interval) else cell
        if key in means:
            bounded = isinstance(cell, Interval) and not math.isinf(cell.half)
            plain[f"{key} low"], plain[f"{key} high"] = (cell.low, cell.high) if bounded else (None, None)
    return plain
