"""The rows of a run: read and checked before anything heavy is loaded, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.config import DataConfig
from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.rows import convert, load_split, source_of
from gdo_cli.data.split import Split
from gdo_cli.probes.base import Probe
from gdo_cli.support.console import warn
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.base import Example

# Every run, whatever its seed, is measured on the same items and shown the same examples.
SUBSET_SEED = 20260309
ROLES = ("train", "validation", "test")
T = TypeVar("T")


def subset(items: Sequence[T], n: int | None) -> list[T]:
    """n items, always the same ones; all of them if n is None or too large."""
    if n is None or n >= len(items):
        return list(items)
    return random.Random(SUBSET_SEED).sample(list(items), n)


@dataclass
class Material:
    """The rows of a run, read and checked before anything heavy is loaded."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    probes: dict[str, tuple[list[Row], list[Row]]]  # rows asked, rows shown as solved examples
    replay: list[str]  # texts that the method rehearses
    shots: list[Example]  # solved examples in front of every task prompt
    provenance: dict[str, Any]


def read_material(config: RunConfig) -> Material:
    """Read every split that the run needs.

    Raises:
        UserError: missing data, or more unusable rows than allowed.
    """
    provenance: dict[str, Any] = {"source": source_of(config.task.dataset, config.data)}
    examples: dict[str, list[Example]] = {}
    for role in ROLES:
        split = load_split(config.task.dataset, role, config.data)
        examples[role] = convert(split, config.task.example, config.data.max_bad_rows)
        provenance[role] = split.provenance
    validation = subset(examples["validation"], config.evaluation.items)
    test = subset(examples["test"], config.evaluation.final_items)
    probes = {}
    for name, probe in config.probe.items():
        rows, shots, record = _probe_rows(probe, config.data)
        probes[name], provenance[f"probe/{name}"] = (rows, shots), record
    replay, record = _replay_texts(config)
    provenance |= {"validation_items": len(validation), "test_items": len(test)} | record
    solved = subset(examples["train"], config.method.shots)
    return Material(examples["train"], validation, test, probes, replay, solved, provenance)


def warn_of_sample(config: RunConfig) -> None:
    """Say which parts of a run read the bundled sample; nothing else ever stands in for real rows."""
    asked = {"task": config.task, **config.probe, "replay": config.method}
    datasets = {name: getattr(part, "dataset", None) for name, part in asked.items()}
    parts = [name for name, each in datasets.items() if each and source_of(each, config.data) == "sample"]
    if parts:
        warn(
            f"data=sample: the bundled sample stands for {', '.join(parts)}; it is made for trying things "
            "out, not for results (real rows: data.dir=FOLDER, or data=hub)"
        )


def changed(config: RunConfig, before: dict[str, Any]) -> list[str]:
    """The task's splits whose files are not what they were; none where they cannot be had, or are the hub's.

    Args:
        before: ``data`` of the record of a finished run.
    """
    dataset = config.task.dataset
    if config.data.source == "hub" and not dataset.path:
        return []
    with suppress(UserError):
        now = {role: load_split(dataset, role, config.data).provenance["sha256"] for role in ROLES}
        return [role for role in ROLES if before.get(role, {}).get("sha256", now[role]) != now[role]]
    return []


def _replay_texts(config: RunConfig) -> tuple[list[str], dict[str, Any]]:
    """What the method rehearses, and where it is from; nothing for a method that does not."""
    dataset, shortest = getattr(config.method, "dataset", None), getattr(config.method, "min_characters", 1)
    if dataset is None:
        return [], {}
    split = load_split(dataset, "replay", config.data)
    texts = [t for t in convert(split, _stripped, config.data.max_bad_rows) if len(t) >= shortest]
    if not texts:
        raise UserError(
            f"method.dataset={dataset.name}: no 'text' of {shortest} characters or more to replay"
        )
    return texts, {"replay": split.provenance | {"texts": len(texts)}}


def _stripped(row: Row) -> str:
    content = row.get("text")
    if not isinstance(content, str):
        raise RowError("field 'text' is missing or no text")
    return content.strip()


def _probe_rows(probe: Probe, data: DataConfig) -> tuple[list[Row], list[Row], dict[str, Any]]:
    shots: list[Row] = []
    if probe.shots:
        source = load_split(probe.dataset, "shots", data)
        shots = subset(_usable(probe, source, data), probe.shots)
    split = load_split(probe.dataset, "eval", data)
    rows = subset(_usable(probe, split, data), probe.items)
    return rows, shots, split.provenance | {"items": len(rows)}


def _usable(probe: Probe, split: Split, data: DataConfig) -> list[Row]:
    """Rows that the probe can read and has something to ask about."""
    checked = convert(split, lambda row: (row, probe.queries(row, [])), data.max_bad_rows)
    return [row for row, queries in checked if queries]
