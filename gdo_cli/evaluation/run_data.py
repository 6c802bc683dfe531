"""The rows of a run: read and checked before anything heavy is loaded, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, TypeVar

from gdo_cli.data.config import DataConfig
from gdo_cli.data.dataset import Dataset, Row, RowError, Split
from gdo_cli.data.overlap import repeated, require_apart, require_once
from gdo_cli.data.rows import convert, load_split, source_of
from gdo_cli.evaluation.config import EvaluationConfig
from gdo_cli.lm.markup import Markup
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.base import Probe
from gdo_cli.support.console import warn
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.base import Example, Task

# Every run, whatever its seed, is measured on the same items and shown the same examples.
SUBSET_SEED = 20260309
ROLES = ("train", "validation", "test")
# How many items of a probe the committed runs were asked: these subsets have been looked at time and again.
DRAWN = (60, 100, 200, 300)
T = TypeVar("T")


def subset(items: Sequence[T], n: int | None) -> list[T]:
    """Return n items, always the same ones; all of them if n is None or too large."""
    if n is None or n >= len(items):
        return list(items)
    return random.Random(SUBSET_SEED).sample(list(items), n)


def held_out(items: Sequence[T]) -> list[T]:
    """Return the items that no subset of the committed runs holds, in their order."""
    drawn = {place for n in DRAWN for place in subset(range(len(items)), n)}
    return [item for place, item in enumerate(items) if place not in drawn]


@dataclass(frozen=True)
class Rehearsed:
    """Texts that a method shows beside the task: rows with a field ``text``, shorter ones left out.

    ``control_tokens``: whether names of control tokens stand for these tokens.
    """

    dataset: Dataset
    min_characters: int = 1
    control_tokens: bool = False


@dataclass
class RunData:
    """The rows of a run, read and checked before anything heavy is loaded."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    probes: dict[str, tuple[list[Row], list[Row]]]  # rows asked, rows shown as solved examples
    replay: list[Query]  # texts that the method rehearses
    shots: list[Example]  # solved examples in front of every task prompt
    provenance: dict[str, Any]


def read_data(
    task: Task,
    probes: Mapping[str, Probe],
    source: DataConfig,
    evaluation: EvaluationConfig,
    shots: int = 0,
    replay: Rehearsed | None = None,
) -> RunData:
    """Read every split that a run needs.

    Args:
        shots: solved examples in front of every prompt of the task.
        replay: texts that its method rehearses.
    Raises:
        UserError: missing data, or more unusable rows than allowed.
    """
    provenance: dict[str, Any] = {"source": source_of(task.dataset, source)}
    if task.dataset.note and provenance["source"] != "sample":
        provenance["note"] = task.dataset.note
    splits: dict[str, Split] = {}  # by the overrides that choose them
    examples: dict[str, list[Example]] = {}
    for role in ROLES:
        split = splits[f"task.dataset.splits.{role}"] = load_split(task.dataset, role, source)
        if role == "train":
            examples[role] = list(chain(*convert(split, task.examples, source.max_bad_rows)))
        else:
            examples[role] = convert(split, task.example, source.max_bad_rows)
        provenance[role] = split.provenance
    examples["validation"] = subset(examples["validation"], evaluation.items)
    examples["test"] = subset(examples["test"], evaluation.final_items)
    asked = {}
    for name, probe in probes.items():
        if not probe.has_rows:
            continue
        asked[name], record = _probe_rows(name, probe, source, evaluation.half, splits)
        provenance[f"probe/{name}"] = record
    texts, record = _replay_texts(replay, source, splits)
    _check_apart(splits)
    provenance |= {f"{role}_items": len(examples[role]) for role in ROLES[1:]} | record
    if again := _repeated(examples):
        provenance["repeated_prompts"] = again
    solved = _shown("method.shots", examples["train"], shots)
    return RunData(**examples, probes=asked, replay=texts, shots=solved, provenance=provenance)


def _shown(key: str, usable: Sequence[T], n: int) -> list[T]:
    """The solved examples in front of a prompt: as many as the run is said to show."""
    if n > len(usable):
        raise UserError(f"{key}={n}: only {len(usable)} rows can be shown; choose {len(usable)} or fewer")
    return subset(usable, n)


def _check_apart(splits: Mapping[str, Split]) -> None:
    """What is measured is neither learnt nor shown, and what the run is judged by has chosen nothing."""

    def of(*roles: str) -> dict[str, Split]:
        return {key: split for key, split in splits.items() if key.rpartition(".")[2] in roles}

    require_once(of("validation", "test", "eval"))
    require_apart(of("train", "replay"), of("validation", "test", "eval"))
    require_apart(of("validation"), of("test"))
    require_apart(of("shots"), of("eval"))


def _repeated(examples: Mapping[str, list[Example]]) -> dict[str, int]:
    """How many items have the prompt of another split's row; said, if there are any."""
    found = {}
    for first, second in combinations(ROLES, 2):
        again = repeated([e.prompt for e in examples[second]], (e.prompt for e in examples[first]))
        if again:
            found[f"{second} in {first}"] = len(again)
            warn(
                f"{len(again)} of {len(examples[second])} {second} items have the prompt of a {first} row "
                "(but for case and spaces): what is measured on them may be memory; "
                f"the first: {again[0][:60]!r}"
            )
    return found


def sampled_parts(
    task: Task, probes: Mapping[str, Probe], source: DataConfig, replay: Rehearsed | None
) -> list[str]:
    """Return the parts of a run that read the bundled sample."""
    named = {"task": task.dataset, **{name: p.dataset for name, p in probes.items() if p.has_rows}}
    named |= {"replay": replay.dataset} if replay else {}
    return [name for name, dataset in named.items() if source_of(dataset, source) == "sample"]


def changed_splits(dataset: Dataset, source: DataConfig, before: dict[str, Any]) -> list[str]:
    """Return the splits whose files are not what they were.

    None where they cannot be had, or are the hub's.

    Args:
        before: ``data`` of the record of a finished run.
    """
    if source.source == "hub" and not dataset.path:
        return []
    with suppress(UserError):
        now = {role: load_split(dataset, role, source).provenance["sha256"] for role in ROLES}
        return [role for role in ROLES if before.get(role, {}).get("sha256", now[role]) != now[role]]
    return []


def _replay_texts(
    replay: Rehearsed | None, source: DataConfig, splits: dict[str, Split]
) -> tuple[list[Query], dict[str, Any]]:
    """What the method rehearses, and where it is from; nothing for a method that does not."""
    if replay is None:
        return [], {}
    split = splits["method.dataset.splits.replay"] = load_split(replay.dataset, "replay", source)
    texts = convert(split, _stripped, source.max_bad_rows)
    texts = [text for text in texts if len(text) >= replay.min_characters]
    if not texts:
        raise UserError(
            f"method.dataset={replay.dataset.name}: no 'text' of {replay.min_characters} characters or more "
            "to replay"
        )
    queries = [Query("", Markup(text) if replay.control_tokens else text) for text in texts]
    return queries, {"replay": split.provenance | {"texts": len(texts)}}


def _stripped(row: Row) -> str:
    content = row.get("text")
    if not isinstance(content, str):
        raise RowError("field 'text' is missing or no text")
    return content.strip()


def _probe_rows(
    name: str, probe: Probe, data: DataConfig, half: str, splits: dict[str, Split]
) -> tuple[tuple[list[Row], list[Row]], dict[str, Any]]:
    """The rows that a probe asks and those that it shows, and a record; both splits are put to the others."""
    key = f"probe.{name}.dataset.splits"
    shots: list[Row] = []
    if probe.shots:
        source = splits[f"{key}.shots"] = load_split(probe.dataset, "shots", data)
        shots = _shown(f"probe.{name}.shots", _usable(probe, source, data), probe.shots)
    split = splits[f"{key}.eval"] = load_split(probe.dataset, "eval", data)
    usable = _usable(probe, split, data)
    if not usable:
        raise UserError(f"{key}.eval: none of its {len(split.rows)} rows has anything to ask; name another")
    offered = held_out(usable) if half == "holdout" else usable
    if not offered:
        raise UserError(
            f"evaluation.half=holdout: probe {name} has {len(usable)} rows, of which {DRAWN[-1]} are for "
            "evaluation.half=explore: none is left; leave the probe out, or name a larger split"
        )
    rows = subset(offered, probe.items)
    record = split.provenance | {"items": len(rows), "usable_rows": len(usable)}
    return (rows, shots), record


def _usable(probe: Probe, split: Split, data: DataConfig) -> list[Row]:
    """Rows that the probe can read and has something to ask about."""
    checked = convert(split, lambda row: (row, probe.queries(row, [])), data.max_bad_rows)
    return [row for row, queries in checked if queries]
