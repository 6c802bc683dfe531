"""What a person sees of long work: bars on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
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


class Reporter:
    """Follows one run. Use as a context manager."""

    def __init__(self, title: str, total_steps: int) -> None:
        self.total = total_steps
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=errors,
            disable=not errors.is_terminal,
            transient=True,
        )
        self.main = self.bars.add_task(title, total=total_steps, status="")
        self.part: Any = None
        self.part_name = ""

    def __enter__(self) -> Reporter:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def step(self, number: int, loss: float, tokens_per_s: float) -> None:
        self.bars.update(
            self.main, completed=number, status=f"loss {loss:.3f} · {tokens_per_s:,.0f} tokens/s"
        )

    def advance(self, part: str, n: int, total: int) -> None:
        """Progress inside an evaluation: n more of the total are done."""
        if part != self.part_name:
            self.end_evaluation()
            self.part = self.bars.add_task(f"  evaluating {part}", total=total, status="")
            self.part_name = part
        self.bars.advance(self.part, n)

    def part_of(self, part: str, total: int) -> Callable[[int], None]:
        """What tells the progress of one part: called with the number that is done."""
        return lambda n: self.advance(part, n, total)

    def end_evaluation(self) -> None:
        if self.part is not None:
            self.bars.remove_task(self.part)
        self.part, self.part_name = None, ""

    def evaluation(self, step: int | str, metrics: dict[str, float]) -> None:
        """One line for an evaluation that is done."""
        self.end_evaluation()
        shown = "  ".join(f"{key} {value:.3f}" for key, value in metrics.items() if not key.endswith("_se"))
        self.bars.console.print(f"[bold]{step!s:>6}[/]  {shown}", highlight=False, soft_wrap=True)


def key_values(rows: dict[str, str]) -> Table:
    """A plain two-column table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, value)
    return table
