"""A task turns a row into a prompt and an answer, and says how answers are scored.

To add one: a dataclass with ``example(row)`` here, and a YAML that names it under conf/task. A task
whose rows only need a template is YAML alone: see :mod:`gdo_cli.tasks.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Row = Mapping[str, Any]
ANSWERS = ("letter", "text")  # of the right option, where a task offers options


class RowError(ValueError):
    """A row that cannot be used, with the reason; it is counted and reported, never guessed at."""


# Not frozen, unlike all other dataclasses: OmegaConf cannot fill in a nested frozen one.


@dataclass
class HubDataset:
    """Where a data set lives on the hub: repository, configuration, revision, names of the splits."""

    identity_name: ClassVar[str] = "gdo_cli.tasks.HubDataset"
    path: str = ""
    name: str | None = None
    revision: str = "main"
    splits: dict[str, str] = field(default_factory=dict)


@dataclass
class Dataset:
    """A data set and its splits.

    Attributes:
        name: its folder under the data directory and in the bundled sample.
        splits: role (``train``, ``validation``, ``test``; ``eval``, ``shots`` for probes) → split in
            Hugging Face notation: ``train``, ``train[:-500]``, ``train+validation[500:]``.
        hub: the same on the hub, where the names differ.
        sample: splits of the bundled sample, where they differ.
        path: a JSON Lines file or a folder of them that is read whatever the data source.
    """

    identity_name: ClassVar[str] = "gdo_cli.tasks.Dataset"
    name: str
    splits: dict[str, str] = field(default_factory=dict)
    sample: dict[str, str] = field(default_factory=dict)
    path: str | None = None
    hub: HubDataset = field(default_factory=HubDataset)


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that should follow it. The answer brings its leading space along."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """Base of all tasks.

    Attributes:
        metric: ``exact_match`` (paper: "exact string match between the model's output and the
            ground truth") or ``bleu`` (SacreBLEU over the whole set).
        multiline: whether answers may hold line breaks; if not, a line break ends them.
    """

    dataset: Dataset
    metric: ClassVar[str] = "exact_match"
    multiline: ClassVar[bool] = False

    def example(self, row: Row) -> Example:
        """Prompt and answer of a row.

        Raises:
            RowError: a field is missing, empty or not what it should be.
        """
        raise NotImplementedError


def text(row: Row, key: str) -> str:
    """A field that must be a string with something in it, stripped."""
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"field {key!r} is {'missing' if value is None else 'no text'}")
    if not value.strip():
        raise RowError(f"field {key!r} is empty")
    return value.strip()


def label(row: Row, key: str, allowed: tuple[str, ...]) -> str:
    """A field that must be one of the given labels."""
    value = text(row, key)
    if value not in allowed:
        raise RowError(f"field {key!r} is {value!r}, not one of {', '.join(allowed)}")
    return value


def options(row: Row, key: str = "choices") -> dict[str, str]:
    """Answer options in the layout of ARC and QASC: label → text."""
    choices = row.get(key)
    if not isinstance(choices, Mapping):
        raise RowError(f"field {key!r} is missing or no object")
    labels, texts = choices.get("label"), choices.get("text")
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise RowError(f"field {key!r} needs lists 'label' and 'text' of the same length")
    if not labels or not all(isinstance(item, str) and item.strip() for item in [*labels, *texts]):
        raise RowError(f"field {key!r} holds an empty option")
    if len({name.strip() for name in labels}) != len(labels):
        raise RowError(f"field {key!r} names an option twice")
    return {name.strip(): value.strip() for name, value in zip(labels, texts, strict=True)}
