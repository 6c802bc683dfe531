"""A data set: its name, its splits, and where it lies on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Row = Mapping[str, Any]


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
