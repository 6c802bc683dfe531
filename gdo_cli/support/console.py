"""What a person is told: notices on standard error, tables and results on standard output."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()
errors = Console(stderr=True)


def warn(message: str) -> None:
    """A notice that must not be missed; on standard error, like every notice."""
    errors.print(f"[bold yellow]warning[/] {escape(message)}", highlight=False, soft_wrap=True)


def note(message: str) -> None:
    errors.print(message, style="dim", markup=False, highlight=False, soft_wrap=True)


class _Labelled(io.TextIOBase):
    """A stream of which every line begins with a label; no terminal, so that nothing is drawn on it."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream = stream
        self.label = label
        self.pending = ""

    def write(self, text: str) -> int:
        *lines, self.pending = (self.pending + text).split("\n")
        self.stream.write("".join(f"[{self.label}] {line}\n" for line in lines if line))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


@contextmanager
def label_lines(label: str) -> Iterator[None]:
    """Mark what is said here with a label: for processes that share a terminal or a log."""
    before = console.file, errors.file
    out: Any = _Labelled(sys.stdout, label)
    err: Any = _Labelled(sys.stderr, label)
    console.file, errors.file = out, err
    try:
        yield
    finally:
        console.file, errors.file = before


def key_values(rows: dict[str, str]) -> Table:
    """A plain two-column table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, value)
    return table
