"""A finished run as it stands on disk, and what its result.json holds, typed: a misspelt field is a
developer's mistake, a damaged file a user's."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from gdo_cli.stats.metrics import measure_named, task_scores
from gdo_cli.support.errors import UserError, require, suggest
from gdo_cli.support.files import json_text, number, write_for_user

WEIGHTS = ("adapter", "trained")
TEXTS = ("part", "answer", "predicted", "answered")  # what a prediction holds beside numbers
PREDICTIONS, UNTOUCHED = "predictions.jsonl.gz", "untouched.jsonl.gz"
RETENTION = "winogrande/exact_match"  # what is kept, where nothing else is named
DECAYING = ("linear", "cosine")  # schedules that end at zero
LATE = 3  # evaluations by whose mean settings are chosen (results/PROTOCOL.md)
LATER = {"keep", "selected", "trained_sha256"}  # fields that older records lack


@dataclass(frozen=True)
class Parameters:
    """What a method added and trained, in numbers of parameters."""

    base: int = 0  # of the text model before the method changed it
    added: int = 0
    trainable: int = 0
    trainable_share: float = 0.0  # of ``base``
    trainable_by_module: dict[str, int] = field(default_factory=dict)  # by kind of layer


@dataclass(frozen=True)
class ChosenLayers:
    """The layers that a run worked on."""

    asked: Any = "all"  # ``all``, a number, or indices
    rule: str | None = None  # by which they were chosen, where a number was asked for
    pilot: str | None = None  # the run that they were ranked by
    pilot_seconds: float | None = None
    snr: list[float | None] | None = None  # signal over noise of each layer
    ranking: list[int] | None = None  # every layer, the first choice first
    chosen: Any = "all"  # indices, or ``all``
    depth: int | None = None  # layers of the model, where more were asked for

    @property
    def indices(self) -> list[int] | None:
        """The chosen layers; None for all."""
        return None if self.chosen == "all" else list(self.chosen)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything that is kept of a finished run beside its metrics, predictions and weights."""

    id: str
    seed: int
    method_label: str = ""  # the method's name in figures and tables
    name: dict[str, str]  # the chosen option of each group
    overrides: list[str] = field(default_factory=list)  # what it was composed from
    config: dict[str, Any] = field(default_factory=dict)  # as ``identity`` gives it
    final: dict[str, float]  # metrics on test data
    steps: int = 0  # optimizer steps; 0 where nothing was trained
    layers: ChosenLayers = field(default_factory=ChosenLayers)
    parameters: Parameters = field(default_factory=Parameters)
    updates: list[dict[str, Any]] = field(default_factory=list)  # how far each matrix has moved
    data: dict[str, Any] = field(default_factory=dict)  # where rows are from, by split and probe; checksums
    weights: dict[str, Any] = field(default_factory=dict)  # where the base's are from, and their checksum
    precision: str = "float32"
    wall_seconds: float = 0.0
    train_seconds: float = 0.0
    tokens_per_second: int = 0
    peak_memory_bytes: int = 0
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    keep: dict[str, Any] = field(default_factory=dict)  # what was promised: tolerances and level
    selected: dict[str, Any] = field(default_factory=dict)  # the evaluation it ended with, if not the last
    trained_sha256: str | None = None  # of the trained weights' file, if they were kept

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunRecord:
        """Return the record that plain data hold; what this version does not know is left out.

        Raises:
            ValueError: a field is missing or of another kind.
        """
        known = _known(cls, content)
        missing = {f.name for f in dataclasses.fields(cls)} - LATER - known.keys()
        if "id" in missing:
            raise ValueError("not the record of a run")
        if missing:
            raise ValueError(f"no {', '.join(sorted(missing))}")
        kinds: dict[str, type] = {"id": str, "seed": int, "steps": int}
        kinds |= dict.fromkeys(("name", "final", "config", "data", "layers", "parameters"), dict)
        if wrong := [key for key, kind in kinds.items() if not isinstance(known[key], kind)]:
            raise ValueError(f"{wrong[0]} is not what it should be")
        known["layers"] = ChosenLayers(**_known(ChosenLayers, known["layers"]))
        known["final"] = {key: number(value) for key, value in known["final"].items()}
        known["parameters"] = Parameters(**_known(Parameters, known["parameters"]))
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, in the order of result.json; what was not asked of the layers is left out."""
        layers = {key: value for key, value in vars(self.layers).items() if value is not None}
        return vars(self) | {"layers": layers, "parameters": vars(self.parameters)}


def _known(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: content[f.name] for f in dataclasses.fields(kind) if f.name in content}


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
        return self.record.method_label

    @property
    def final(self) -> dict[str, float]:
        return self.record.final

    @property
    def task_score(self) -> str:
        """The metric that scores the run's task."""
        return next((m for m in task_scores() if m in self.final), "task/loss")

    @property
    def title(self) -> str:
        """E.g. ``scitail/g_freeze-1a2b3c4d/seed0``."""
        return f"{self.name['task']}/{self.name['method']}-{self.id}/seed{self.seed}"

    def setting(self, key: str) -> Any:
        """Return a setting by dotted name: ``task``, ``method``, ``layers``, ``train.lr``, …

        Raises:
            UserError: the run has no such setting.
        """
        try:
            return look_up(key, self.name, self.record.config)
        except UserError as error:
            raise UserError(f"{self.title} has {error}") from None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl; one that a crash has cut off is left out.

        Raises:
            UserError: they cannot be read.
        """
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        try:
            return [_measured(_mapping(line)) for line in file.read_text("utf-8").split("\n")[:-1]]
        except ValueError as error:
            raise UserError(f"{file}: cannot be read ({error}); run it again: gdo train --force …") from error

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """Evaluations during training, step 0 first."""
        return [line for line in self.metrics if line["kind"] == "evaluation"]

    @property
    def ended_with(self) -> dict[str, Any]:
        """The evaluation of the weights that the run ended with: the last one, or the one it selected."""
        step = self.record.selected.get("step", self.evaluations[-1]["step"])
        return next(line for line in self.evaluations if line["step"] == step)

    @cached_property
    def moved(self) -> list[dict[str, Any]]:
        """How far parameters had moved at each evaluation after the start: ``step``, and ``kinds`` as
        :meth:`gdo_cli.training.updates.UpdateTracker.by_kind` has them. Older runs have none."""
        return [line for line in self.metrics if line["kind"] == "moved"]

    @property
    def validation_score(self) -> float:
        """What settings are chosen by, the higher the better: the task's score on validation items (minus it,
        where less is better), mean of the last three evaluations; where the rate decays to zero, the last;
        of a run that ends with another evaluation, that one.

        At a constant rate a single one goes up and down by more than rates differ. The untrained model's
        counts only where nothing was trained.

        Raises:
            UserError: metrics.jsonl holds no evaluation.
        """
        trained = [line for line in self.evaluations if line["step"]] or self.evaluations
        file = self.path / "metrics.jsonl"
        require(bool(trained), f"{file}: holds no evaluation; run it again: gdo train --force …")
        sign = 1 if measure_named(self.task_score).higher_is_better else -1
        if "step" in self.record.selected:
            trained = [self.ended_with]
        decays = self.record.config.get("train", {}).get("lr_scheduler") in DECAYING
        return sign * mean(float(line[self.task_score]) for line in trained[-(1 if decays else LATE) :])

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
            return _mapping(file.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); remove it to analyse again") from error

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
        """Keep what an analysis has found, whole or not at all; a folder that refuses it is a UserError."""
        text = json_text(content, indent=1) + "\n"
        write_for_user(self.analysis_folder() / f"{kind}.json", text)


def read_items(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of predictions.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            return [read_item(json.loads(line)) for line in stream]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error}); what each item got is not known") from error


def read_item(row: dict[str, Any]) -> dict[str, Any]:
    """Return a prediction with its numbers as they were; its texts may read like one."""
    return {key: value if key in TEXTS else number(value) for key, value in row.items()}


def _measured(line: dict[str, Any]) -> dict[str, Any]:
    scores = line.get("kind") in ("train", "evaluation")  # others have places, of which some are none
    return {key: number(value) for key, value in line.items()} if scores else line


def read_run(path: Path) -> RunResult:
    """Return a finished run.

    Raises:
        UserError: result.json cannot be read.
    """
    file = path / "result.json"
    try:
        return RunResult(path, RunRecord.from_dict(_mapping(file.read_text("utf-8"))))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it to run again") from error


def _mapping(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a record")
    return content


def look_up(key: str, name: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """Return the chosen option of a group, or else a setting by its dotted name, e.g. ``train.lr``.

    Raises:
        UserError: there is no such setting; ends with the nearest one.
    """
    if key in name:
        return name[key]
    value: Any = config
    above, beside = "", list(name)
    for part in key.split("."):
        there = value if isinstance(value, Mapping) else {}
        if part not in there:
            nearest = suggest(key, {*beside, *(f"{above}{other}" for other in there)})
            raise UserError(f"no setting {key!r} to tell runs apart by; {nearest}")
        value = there[part]
        above, beside = f"{above}{part}.", []
    return value
