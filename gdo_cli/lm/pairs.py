"""Which columns are read by which row: those that meet nearest, by their names."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """One MLP, or attention: the columns, the row that reads them, and the module that holds all of them."""

    place: str
    columns: tuple[str, ...]
    row: str


def find_pairs(columns: list[str], rows: list[str]) -> list[Pair]:
    """Return each row with its columns: a column's row is the one whose name begins longest as its own does.

    A number behind that beginning stands for another layer, so these two never meet.

    Args:
        columns: full names of linear layers.
        rows: likewise.
    Raises:
        ValueError: a column with no row, or several, or a row with no column.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        nearest = nearest_rows(column, rows)
        if len(nearest) != 1:
            many = f"{len(nearest)} rows are named that may do so" if nearest else "no row is named"
            raise ValueError(_told(column, many))
        found[nearest[0]].append(column)
    if lonely := next((row for row in rows if row not in found), None):
        raise ValueError(_told(lonely, "no column is named"))
    return [_pair(columns, row) for row, columns in found.items()]


def nearest_rows(column: str, rows: list[str]) -> list[str]:
    """Return the rows whose names begin longest as the column's does, and of these those with fewest parts:
    BERT's ``output.dense`` rather than ``attention.output.dense``."""
    depths = {row: (d, -row.count(".")) for row in rows if (d := _common(column, row)) is not None}
    nearest = max(depths.values(), default=None)
    return [row for row, depth in depths.items() if depth == nearest]


def _told(name: str, what: str) -> str:
    where = "target_modules, row_modules"
    return f"{name}: columns grow with the one row that reads them, and here {what} ({where})"


def _pair(columns: list[str], row: str) -> Pair:
    depth = min(_common(column, row) or 0 for column in columns)
    return Pair(".".join(row.split(".")[:depth]), tuple(columns), row)


def _common(first: str, second: str) -> int | None:
    """How many parts two names have in common at their beginnings; None where a number comes after."""
    one, other = first.split("."), second.split(".")
    depth = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return None if any(part.isdigit() for part in one[depth:] + other[depth:]) else depth
