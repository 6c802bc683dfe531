"""A finished run as it stands on disk."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from gdo_cli.runs.run_record import RunRecord
from gdo_cli.stats.metrics import measure_named, task_scores
from gdo_cli.support.errors import UserError, require
from gdo_cli.support.files import write_atomically

WEIGHTS = ("adapter", "trained")
PREDICTIONS, UNTOUCHED = "predictions.jsonl.gz", "untouched.jsonl.gz"
RETENTION = "winogrande/exact_match"  # what is kept, where nothing else is named
LATE = 3  # evaluations by whose mean settings are chosen (results/PROTOCOL.md)


@dataclass(frozen=True)
class RunResult:
    """A finished run as it stands on disk; all that figures and tables read."""

    path: Path
    record: RunRecord

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def seed(self) -> int:
        return self.record.seed

    @property
    def name(self) -> dict[str, str]:
        return self.record.name

    @property
    def label(self) -> str:
        """The method's name for figures and tables."""
        return self.record.method_label

    @property
    def final(self) -> dict[str, float]:
        """Metrics of the final evaluation, on test data."""
        return self.record.final

    @property
    def task_score(self) -> str:
        """The metric that scores the run's task."""
        return next((m for m in task_scores() if m in self.final), "task/loss")

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
        """What settings are chosen by, the higher the better: the task's score on validation items (minus it,
        where less is better), mean of the last three evaluations.

        At a constant rate a single one goes up and down by more than rates differ. The untrained model's
        counts only where nothing was trained.

        Raises:
            UserError: metrics.jsonl holds no evaluation.
        """
        trained = [line for line in self.evaluations if line["step"]] or self.evaluations
        file = self.path / "metrics.jsonl"
        require(bool(trained), f"{file}: holds no evaluation; run it again: gdo train --force …")
        sign = 1 if measure_named(self.task_score).higher_is_better else -1
        return sign * mean(float(line[self.task_score]) for line in trained[-LATE:])

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """One record per item of the final evaluation: the lines of predictions.jsonl.gz.

        Raises:
            UserError: they cannot be read.
        """
        return read_items(self.path / PREDICTIONS)

    @cached_property
    def untouched(self) -> list[dict[str, Any]]:
        """What the untouched model got of the probes' items, a record for each.

        Raises:
            UserError: that cannot be read; runs of earlier versions did not keep it.
        """
        return read_items(self.path / UNTOUCHED)

    @property
    def weights(self) -> Path | None:
        """Folder of the trained weights, if they were kept."""
        return next((self.path / name for name in WEIGHTS if (self.path / name).is_dir()), None)

    def analysis(self, kind: str) -> dict[str, Any] | None:
        """Return what ``gdo analyze KIND`` has found, if it was asked.

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
        """Return where analyses are kept, made if need be.

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


def read_items(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of predictions.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error}); what each item got is not known") from error


def read_run(path: Path) -> RunResult:
    """Return a finished run.

    Raises:
        UserError: result.json cannot be read.
    """
    file = path / "result.json"
    try:
        content = json.loads(file.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not the record of a run")
        return RunResult(path, RunRecord.from_dict(content))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it to run again") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's metrics.jsonl; a line cut off by a crash is left out."""
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
