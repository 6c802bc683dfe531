"""The rows of a split, and the notation by which splits are named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gdo_cli.data.dataset import Row
from gdo_cli.support.errors import UserError

_PART = re.compile(r"^(?P<split>\w+)(?:\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?$")


@dataclass
class Split:
    """Rows of one split, with where each came from, and a record for the result.

    Attributes:
        where: per row, ``file:line`` or ``dataset[index]``.
        provenance: source, files or hub commit, and a checksum of the rows.
    """

    rows: list[Row]
    where: list[str]
    provenance: dict[str, Any]
    rejected: list[str] = field(default_factory=list)


def parse_spec(spec: str) -> Iterator[tuple[str, slice]]:
    for part in spec.split("+"):
        match = _PART.match(part)
        if match is None:
            raise UserError(f"split {spec!r}: write it as train, train[:-500] or train+validation[500:]")
        start, stop = (None if v is None else int(v) for v in (match["start"], match["stop"]))
        yield match["split"], slice(start, stop)
