"""Tables in Markdown and CSV and learning rates, as the commands, the figures and the report write them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], words: int | None = None) -> str:
    """Return a table, without a line break at its end.

    Args:
        words: columns of words, from the left; those behind are set to the right. All by default.
    """
    left = len(heading) if words is None else words
    marks = ["---" if column < left else "---:" for column in range(len(heading))]
    lines = (heading, marks, *rows)
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; the first one has every column. What is no finite number is left empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _finite(cell) for key, cell in row.items()} for row in rows)
    return stream.getvalue()


def _finite(cell: Any) -> Any:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def rate(lr: float) -> str:
    """Return a learning rate as people write it: ``2e-5``, ``2e-4``, where Python has ``2e-05``,
    ``0.0002``."""
    mantissa, exponent = f"{lr:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
