"""Rows of CSV and Parquet files, with where each came from and what was wrong with the others."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from gdo_cli.data.dataset import Row
from gdo_cli.support.errors import UserError, first_line

Rows = tuple[list[Row], list[str], list[tuple[int, str]]]
SUFFIXES = (".csv", ".tsv", ".parquet")


def read_tabular(file: Path, digest: Any = None) -> Rows:
    """Return a table's rows, ``file:row`` of each, and for every other row those before it and its fault.

    Cells of CSV are text; the first line names the columns.

    Args:
        digest: a hash that is fed the file's bytes.
    Raises:
        UserError: the file cannot be read at all.
    """
    content = file.read_bytes()
    if digest is not None:
        digest.update(content)
    read = _parquet if file.suffix.lower() == ".parquet" else _csv
    try:
        return read(file, content)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as {file.suffix[1:]} ({first_line(error)})") from error


def _csv(file: Path, content: bytes) -> Rows:
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=separator, strict=True)
    heading = next(lines, [])
    if not all(heading) or len(set(heading)) != len(heading):
        raise ValueError("its first line must name every column, each by another name")
    rows: list[Row] = []
    where: list[str] = []
    rejected: list[tuple[int, str]] = []
    for cells in lines:
        place = f"{Path(*file.parts[-2:])}:{lines.line_num}"
        if not cells:
            continue
        if len(cells) != len(heading):
            rejected.append((len(rows), f"{place}: {len(cells)} cells, not {len(heading)}"))
            continue
        rows.append(dict(zip(heading, cells, strict=True)))
        where.append(place)
    return rows, where, rejected


def _parquet(file: Path, content: bytes) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(first_line(error)) from error
    return rows, [f"{Path(*file.parts[-2:])}:{number}" for number in range(1, len(rows) + 1)], []
