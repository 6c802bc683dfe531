"""Run folders: written once, read anywhere.

results/runs/MODEL/TASK/METHOD-ID/seedN/
    config.yaml         what was asked for
    metrics.jsonl       every step and every evaluation, as they came
    predictions.jsonl.gz  item by item, of the last evaluation
    result.json         written last, by rename: where it stands, the run is complete
    failed.json         why the last attempt failed, until the next one
    checkpoint.safetensors  what an unfinished run goes on from
    adapter/ or trained/  the trained weights (never in git)
    analysis/           what ``gdo analyze`` has found later, a JSON file for each kind
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from gdo_cli.errors import UserError, require, suggest
from gdo_cli.identity import identity
from gdo_cli.markdown import rate
from gdo_cli.schema import RunConfig

RESULTS = "runs/*/*/*/seed*/result.json"
WEIGHTS = ("adapter", "trained")
FAILURE = "failed.json"
CHECKPOINT = "checkpoint.safetensors"
TASK_SCORES = ("task/exact_match", "task/bleu")
RETENTION = "winogrande/exact_match"  # what is kept, where nothing else is named
LATE = 3  # evaluations by whose mean settings are chosen (results/PROTOCOL.md)


class Record(dict[str, Any]):
    """What a result.json holds; a key that is not there is told as what it is."""

    file: Path | str = "result.json"

    def __missing__(self, key: str) -> Any:
        raise UserError(
            f"{self.file}: holds no {key!r}; if it is not whole, run it again: gdo train --force …"
        )


class Busy(UserError):
    """Another process holds the run's folder."""


@dataclass(frozen=True)
class RunResult:
    """A finished run as it stands on disk; all that figures and tables read."""

    path: Path
    record: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    @property
    def name(self) -> dict[str, str]:
        return Record(self.record["name"])

    @property
    def label(self) -> str:
        """The method's name for figures and tables."""
        return str(self.record["method_label"])

    @property
    def final(self) -> dict[str, float]:
        """Metrics of the final evaluation, on test data."""
        return dict(self.record["final"])

    @property
    def task_score(self) -> str:
        """The metric that scores the run's task."""
        return next((m for m in TASK_SCORES if m in self.final), "task/loss")

    @property
    def title(self) -> str:
        """E.g. ``scitail/g_freeze-1a2b3c4d/seed0``."""
        return f"{self.name['task']}/{self.name['method']}-{self.id}/seed{self.seed}"

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.path)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluations during training, step 0 first."""
        return [line for line in self.metrics if line["kind"] == "evaluation"]

    @property
    def validation_score(self) -> float:
        """What settings are chosen by, the higher the better: the task's score on validation items (or minus
        its loss), mean of the last three evaluations.

        At a constant rate a single one goes up and down by more than rates differ. The untrained model's
        counts only where nothing was trained.

        Raises:
            UserError: metrics.jsonl holds no evaluation.
        """
        trained = [line for line in self.evaluations if line["step"]] or self.evaluations
        file = self.path / "metrics.jsonl"
        require(bool(trained), f"{file}: holds no evaluation; run it again: gdo train --force …")
        sign = -1 if self.task_score.endswith("loss") else 1
        return sign * mean(float(line[self.task_score]) for line in trained[-LATE:])

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """One record per item of the final evaluation: the lines of predictions.jsonl.gz.

        Raises:
            UserError: they cannot be read.
        """
        file = self.path / "predictions.jsonl.gz"
        try:
            with gzip.open(file, "rt", encoding="utf-8") as stream:
                return [json.loads(line) for line in stream]
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(f"{file}: cannot be read ({error}); what each item got is not known") from error

    @property
    def weights(self) -> Path | None:
        """Folder of the trained weights, if they were kept."""
        return next((self.path / name for name in WEIGHTS if (self.path / name).is_dir()), None)

    def analysis(self, kind: str) -> dict[str, Any] | None:
        """What ``gdo analyze KIND`` has found, if it was asked.

        Raises:
            UserError: its file cannot be read.
        """
        file = self.path / "analysis" / f"{kind}.json"
        try:
            content = json.loads(file.read_text("utf-8"))
            if not isinstance(content, dict):
                raise ValueError("not the record of an analysis")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); remove it to analyse again") from error
        return content

    def analysis_folder(self) -> Path:
        """Where analyses are kept, made if need be.

        Raises:
            UserError: it cannot be written; better told before anything is measured.
        """
        folder = self.path / "analysis"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
        require(os.access(folder, os.W_OK), f"{folder}: cannot be written")
        return folder

    def save_analysis(self, kind: str, content: dict[str, Any]) -> None:
        """Keep what an analysis has found, whole or not at all.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = self.analysis_folder()
        try:
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            write_atomically(folder / f"{kind}.json", text.encode())
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


class RunFolder:
    """The folder of one run: made, locked, filled and sealed."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        name = config.name
        method = f"{name['method']}-{config.id}"
        root = Path(config.results_dir) / "runs" / name["model"] / name["task"]
        self.path = root / method / f"seed{config.seed}"
        self.title = f"{name['task']}/{method}/seed{config.seed}"

    def load(self) -> RunResult | None:
        """The result, if the run is complete."""
        return read_run(self.path) if (self.path / "result.json").is_file() else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            Busy: another process works on the run.
            UserError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(f"{self.path}: another process is working on this run") from error
            yield

    def clear(self) -> None:
        """Drop what an earlier, unfinished or forced run left behind."""
        for entry in self.path.iterdir():
            if entry.name == ".lock":
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def start(self) -> None:
        self.clear()
        content = {"name": self.config.name} | identity(self.config)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (self.path / "config.yaml").write_text(text, "utf-8")

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def measure_metrics(self) -> dict[str, int]:
        """Length and checksum of metrics.jsonl as it stands, safe on disk."""
        with (self.path / "metrics.jsonl").open("rb") as stream:
            os.fsync(stream.fileno())
            content = stream.read()
        return {"bytes": len(content), "crc32": zlib.crc32(content)}

    def cut_metrics(self, measured: dict[str, int]) -> None:
        """Take back the lines of metrics.jsonl that were written since it was measured.

        Raises:
            ValueError: what stood there then is no longer there.
        """
        file = self.path / "metrics.jsonl"
        content = file.read_bytes()[: measured["bytes"]] if file.is_file() else b""
        if len(content) != measured["bytes"] or zlib.crc32(content) != measured["crc32"]:
            raise ValueError(f"{file.name} is not what it was")
        write_atomically(file, content)

    def fail(self, message: str) -> None:
        """Mark the run as failed; what it has measured so far stays."""
        content = json.dumps({"error": message, "time": time.time()}, ensure_ascii=False) + "\n"
        with suppress(OSError):  # the disk may be what failed
            write_atomically(self.path / FAILURE, content.encode())

    def failure(self) -> str | None:
        """Why the last attempt failed, if it did."""
        try:
            return str(json.loads((self.path / FAILURE).read_text("utf-8"))["error"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return "for a reason that cannot be read"

    def begin_again(self) -> None:
        """Take the mark of failure off a run that goes on, and drop files that were cut off as they grew."""
        (self.path / FAILURE).unlink(missing_ok=True)
        self._drop_halves()

    def tidy(self) -> None:
        """Drop what only an unfinished run needs."""
        self._drop_halves()
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def _drop_halves(self) -> None:
        """Ours end in .tmp; safetensors writes into .tmpXXXXXX and renames it."""
        for entry in (*self.path.rglob("*.tmp"), *self.path.rglob(".tmp*")):
            entry.unlink(missing_ok=True)

    def save_predictions(self, predictions: list[dict[str, Any]]) -> None:
        lines = (json.dumps(p, ensure_ascii=False) + "\n" for p in predictions)
        # No time stamp: the same predictions give the same bytes.
        content = gzip.compress("".join(lines).encode(), mtime=0)
        write_atomically(self.path / "predictions.jsonl.gz", content)

    def seal(self, record: dict[str, Any]) -> RunResult:
        """Write result.json, last; from here on the run is complete."""
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.path / "result.json", text.encode())
        self.tidy()
        return read_run(self.path)


def write_atomically(path: Path, content: bytes) -> None:
    """The whole file or nothing: written beside it, synced, renamed."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def write_for_user(path: Path | None, text: str) -> None:
    """Write a file that was asked for, and its folder; nothing for None.

    Raises:
        UserError: it cannot be written.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def read_run(path: Path) -> RunResult:
    """A finished run.

    Raises:
        UserError: result.json cannot be read.
    """
    file = path / "result.json"

    def record_of(content: dict[str, Any]) -> Record:
        record = Record(content)
        record.file = file
        return record

    try:
        record = json.loads(file.read_text("utf-8"), object_hook=record_of)
        kinds = {"id": str, "seed": int, "name": dict, "final": dict}
        if not isinstance(record, dict) or not all(isinstance(record.get(k), t) for k, t in kinds.items()):
            raise ValueError("not the record of a run")
        return RunResult(path, record)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it to run again") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; a line cut off by a crash is left out."""
    file = path / "metrics.jsonl"
    if not file.is_file():
        return []
    try:
        lines = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
        if not all(isinstance(line, dict) for line in lines):
            raise ValueError("a line is no record")
        return lines
    except ValueError as error:
        raise UserError(f"{file}: cannot be read ({error}); run it again: gdo train --force …") from error


def find_runs(results_dir: str | Path) -> list[RunResult]:
    """All finished runs, by name."""
    files = sorted(Path(results_dir).glob(RESULTS))
    return [read_run(file.parent) for file in files]


def find_run(reference: str, results_dir: str | Path) -> RunResult:
    """The finished run of a path, or of a part of its name that no other run has.

    Raises:
        UserError: none, or several.
    """
    matches = _matches(reference, results_dir)
    if len(matches) == 1:
        return matches[0]
    raise UserError(f"{reference!r} names {len(matches)} runs: {', '.join(r.title for r in matches[:8])}")


def find_target(words: Sequence[str], results_dir: str | Path) -> tuple[RunResult | None, list[str]]:
    """The run among the words, if one is named, and the overrides.

    Raises:
        UserError: several names, or one of none or several runs.
    """
    names = [word for word in words if "=" not in word]
    require(len(names) <= 1, f"one run at a time, not {', '.join(names)}")
    overrides = [word for word in words if "=" in word]
    return (find_run(names[0], results_dir) if names else None), overrides


def find_seeds(reference: str, results_dir: str | Path) -> list[RunResult]:
    """Like :func:`find_run`; a name that only the seeds of one run share stands for all of them.

    Raises:
        UserError: none, or runs that differ in more than their seed.
    """
    matches = _matches(reference, results_dir)
    return matches if len({run.path.parent for run in matches}) == 1 else [find_run(reference, results_dir)]


def _matches(reference: str, results_dir: str | Path) -> list[RunResult]:
    """The runs of that very name, or else all whose name it is a part of; at least one."""
    if (Path(reference) / "result.json").is_file():
        return [read_run(Path(reference))]
    folders = sorted(file.parent for file in Path(results_dir).glob(RESULTS))
    titles = {folder: "/".join(folder.parts[-3:]) for folder in folders}
    matches = [f for f in folders if reference in (titles[f], str(f.relative_to(results_dir)))]
    matches = matches or [f for f in folders if reference in str(f.relative_to(results_dir))]
    if not matches:
        hint = suggest(reference, titles.values(), lister="gdo ls")
        raise UserError(f"no finished run {reference!r} in {results_dir}; {hint}")
    return [read_run(folder) for folder in matches]


def all_seeds(run: RunResult) -> list[RunResult]:
    """The run and then all finished ones that differ from it in their seed alone."""
    files = sorted(run.path.parent.glob("seed*/result.json"))
    return [run, *(read_run(file.parent) for file in files if file.parent.name != run.path.name)]


def by_id(runs: Iterable[RunResult]) -> dict[str, list[RunResult]]:
    """Runs that differ in their seed alone, together."""
    found: dict[str, list[RunResult]] = {}
    for run in runs:
        found.setdefault(run.id, []).append(run)
    return found


def distinct_names(runs: list[RunResult]) -> dict[str, str]:
    """A name for each run's id: its method's, with the settings in which it differs from most namesakes.

    Runs that differ in none of these (in a probe, say) have their id behind their name.
    """
    labels = {run.id: run.label for run in runs}
    names = {
        key: ", ".join([labels[key], *(f"{k}={value}" for k, value in own.items())])
        for key, own in differences(runs).items()
    }
    times = Counter(names.values())
    return {key: name if times[name] == 1 else f"{name}, {key}" for key, name in names.items()}


def differences(runs: Iterable[RunResult]) -> dict[str, dict[str, str]]:
    """For each run's id, the settings in which it differs from most runs of its method's name."""
    by_label: dict[str, dict[str, RunResult]] = {}
    for run in runs:
        by_label.setdefault(run.label, {})[run.id] = run
    found = {}
    for namesakes in by_label.values():
        asked = set.intersection(*(set(_of_task(run)) for run in namesakes.values()))
        settings = {key: _settings(run, asked) for key, run in namesakes.items()}
        usual = _usual(list(settings.values()))
        for key, own in settings.items():
            found[key] = {k: value for k, value in own.items() if usual.get(k) != value}
    return found


def _usual(settings: list[dict[str, str]]) -> dict[str, str]:
    """What more than half of them have in common, key by key."""
    counts = Counter(item for own in settings for item in own.items())
    return {key: value for (key, value), count in counts.items() if 2 * count > len(settings)}


def _settings(run: RunResult, asked: set[str]) -> dict[str, str]:
    """What namesakes may differ in, in the order in which a name tells it; of the task's settings, these."""
    config = run.record["config"]
    found: dict[str, Any] = {key: run.name[key] for key in ("model", "task")}
    found |= {key: value for key, value in _of_task(run).items() if key in asked}
    found |= {key: config[key] for key in ("layers", "layer_rule") if key in config}
    found |= {k: v for k, v in config["method"].items() if k not in ("_target_", "name", "options")}
    found |= config["method"].get("options", {}) | config["train"] | {"lr": rate(config["train"]["lr"])}
    return {key: str(value) for key, value in found.items()}


def _of_task(run: RunResult) -> dict[str, Any]:
    """What its task was asked for: the form of its answers, say; not where its rows are."""
    own = run.record["config"].get("task", {})
    return {k: v for k, v in own.items() if k != "_target_" and not isinstance(v, dict)}
