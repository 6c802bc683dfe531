"""A data set: its name, where it lies on the hub, its splits, and the notation by which they are named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import NOT_IDENTITY

Row = Mapping[str, Any]
_PART = re.compile(r"^(?P<split>\w[\w.-]*)(?:\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?$")


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
        note: what a reader of its numbers must know; it stands in records and under figures.
    """

    identity_name: ClassVar[str] = "gdo_cli.tasks.Dataset"
    name: str
    splits: dict[str, str] = field(default_factory=dict)
    sample: dict[str, str] = field(default_factory=dict)
    path: str | None = None
    hub: HubDataset = field(default_factory=HubDataset)
    note: str = field(default="", metadata=NOT_IDENTITY)


@dataclass
class Split:
    """Rows of one split, with where each came from, and a record for the result.

    Attributes:
        where: per row, ``file:line`` or ``dataset/split[index]``.
        provenance: source, files or hub commit, and a checksum of the rows.
        rejected: what was wrong with lines that hold no row.
        files: per row, the file behind all links.
    """

    rows: list[Row]
    where: list[str]
    provenance: dict[str, Any]
    rejected: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def places(self) -> list[str]:
        """Per row, what no other row has: the file behind all links, and the line."""
        if not self.files:
            return self.where
        lines = (place.rpartition(":")[2] for place in self.where)
        return [f"{file}:{line}" for file, line in zip(self.files, lines, strict=True)]


def parse_spec(spec: str) -> Iterator[tuple[str, slice]]:
    """Yield the names in a split's notation, each with the rows that are taken.

    Raises:
        UserError: it is none.
    """
    for part in spec.split("+"):
        match = _PART.match(part)
        if match is None:
            raise UserError(f"split {spec!r}: write it as train, train[:-500] or train+validation[500:]")
        start, stop = (None if v is None else int(v) for v in (match["start"], match["stop"]))
        yield match["split"], slice(start, stop)
