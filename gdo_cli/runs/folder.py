"""Run folders: written once, read anywhere.

results/runs/MODEL/TASK/METHOD-ID/seedN/
    config.yaml         what was asked for
    metrics.jsonl       every step and every evaluation, as they came
    predictions.jsonl.gz  item by item, of the last evaluation
    untouched.jsonl.gz  the same of the untouched model, on the probes
    result.json         written last, by rename: where it stands, the run is complete
    failed.json         why the last attempt failed, until the next one
    checkpoint.pt       what an unfinished run goes on from
    selected-N.safetensors  the best weights so far, of an unfinished run with select=best or kept
    adapter/ or trained/  the trained weights (never in git)
    analysis/           what ``gdo analyze`` has found later, a JSON file for each kind
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from gdo_cli.runs.record import PREDICTIONS, UNTOUCHED, RunRecord, RunResult, read_items, read_run
from gdo_cli.support.errors import UserError
from gdo_cli.support.files import json_text, write_atomically

FAILURE = "failed.json"
CHECKPOINT = "checkpoint.pt"
SELECTED = "selected-{}.safetensors"


class Busy(UserError):
    """Another process holds the run's folder."""


class RunFolder:
    """The folder of one run: made, locked, filled and sealed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def title(self) -> str:
        """E.g. ``scitail/g_freeze-1a2b3c4d/seed0``."""
        return "/".join(self.path.parts[-3:])

    def load(self) -> RunResult | None:
        """Return the result, if the run is complete."""
        return read_run(self.path) if (self.path / "result.json").is_file() else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process, as long as the context lasts.

        Raises:
            Busy: another process works on the run.
            UserError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = self._lock().acquire()
        except Timeout as error:  # an OSError, too
            raise Busy(f"{self.path}: another process is working on this run") from error
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        with held:
            yield

    def is_held(self) -> bool:
        """Return whether a process works on the run; one that has died holds nothing."""
        if not (self.path / ".lock").is_file():  # asking must not make the folder
            return False
        try:
            with self._lock():
                return False
        except Timeout:
            return True
        except OSError:  # someone else's, to be read only
            return False

    def _lock(self) -> BaseFileLock:
        return FileLock(self.path / ".lock", timeout=0)

    def clear(self) -> None:
        """Drop what an earlier, unfinished or forced run left behind."""
        for entry in self.path.iterdir():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def start(self, config: dict[str, Any]) -> None:
        """Begin with an empty folder that says what was asked for: names and settings, as plain data."""
        self.clear()
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        (self.path / "config.yaml").write_text(text, "utf-8")

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json_text(line) + "\n")

    def measure_metrics(self) -> dict[str, int]:
        """Return the length and checksum of metrics.jsonl as it stands, safe on disk."""
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
        content = json_text({"error": message, "time": time.time()}) + "\n"
        with suppress(OSError):  # the disk may be what failed
            write_atomically(self.path / FAILURE, content.encode())

    def failure(self) -> str | None:
        """Return why the last attempt failed, if it did."""
        try:
            return str(json.loads((self.path / FAILURE).read_text("utf-8"))["error"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return "for a reason that cannot be read"

    def prepare_resume(self) -> None:
        """Take the mark of failure off a run that goes on, and drop files that were cut off as they grew."""
        self._drop(FAILURE)

    def tidy(self) -> None:
        """Drop what only an unfinished run needs."""
        self._drop(CHECKPOINT)
        for file in self.path.glob(SELECTED.format("*")):
            file.unlink(missing_ok=True)

    def _drop(self, name: str) -> None:
        """A file, and halves: ours end in .tmp; safetensors writes into .tmpXXXXXX and renames it."""
        for entry in (self.path / name, *self.path.rglob("*.tmp"), *self.path.rglob(".tmp*")):
            entry.unlink(missing_ok=True)

    def save_predictions(self, predictions: Sequence[Mapping[str, Any]], name: str = PREDICTIONS) -> None:
        lines = (json_text(p) + "\n" for p in predictions)
        # No time stamp: the same predictions give the same bytes.
        content = gzip.compress("".join(lines).encode(), mtime=0)
        write_atomically(self.path / name, content)

    def save_untouched(self, predictions: Sequence[Mapping[str, Any]]) -> None:
        """Keep what the untouched model got of the probes' items, if it was asked any."""
        if predictions:
            self.save_predictions(predictions, UNTOUCHED)

    def untouched(self) -> list[dict[str, Any]]:
        """Return what :meth:`save_untouched` has kept."""
        file = self.path / UNTOUCHED
        return read_items(file) if file.is_file() else []

    def seal(self, record: RunRecord) -> RunResult:
        """Write result.json, last; from here on the run is complete."""
        text = json_text(record.to_dict(), indent=1) + "\n"
        write_atomically(self.path / "result.json", text.encode())
        self.tidy()
        return read_run(self.path)
