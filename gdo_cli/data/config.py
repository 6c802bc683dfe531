"""Where rows come from: the Hydra group ``data``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.support.errors import require, require_one_of
from gdo_cli.support.identity import NOT_IDENTITY


@dataclass(frozen=True)
class DataConfig:
    """Where rows come from.

    Attributes:
        source: ``local`` (JSON Lines under ``dir``), ``hub`` (the ``datasets`` library), ``sample``
            (bundled), or ``auto``: local if ``dir`` is set, else the hub. Nothing is asked and nothing
            stands in for what is not there, so that a command is the same run everywhere.
        dir: folder of data sets for ``local`` (default: ``GDO_DATA_DIR``).
        max_bad_rows: share of malformed or too long rows that may be skipped before it is an error.
        offline: never ask the hub.
    """

    identity_name: ClassVar[str] = "gdo_cli.schema.DataConfig"
    source: str = "auto"
    dir: str | None = field(default=None, metadata=NOT_IDENTITY)
    max_bad_rows: float = 0.01
    offline: bool = field(default=False, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require_one_of("data.source", self.source, ("auto", "local", "hub", "sample"))
        require(0 <= self.max_bad_rows <= 1, f"data.max_bad_rows={self.max_bad_rows}: a share, 0 to 1")

    def resolve(self) -> DataConfig:
        """Return the configuration with ``auto`` decided, which a run's id is made of."""
        if self.source != "auto":
            return self
        return dataclasses.replace(self, source="local" if self.dir else "hub")
