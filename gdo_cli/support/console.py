"""What a person is told: notices and progress on standard error, tables and results on standard output.

Notices go through the logger ``gdo``, so that who uses gdo as a library can silence or route them.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()
errors = Console(stderr=True)
log = logging.getLogger("gdo")


class _OnConsole(logging.Handler):
    """Prints notices above the bars that the same console may draw; warnings bear the word."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            errors.print(f"[bold yellow]warning[/] {escape(message)}", highlight=False, soft_wrap=True)
        else:
            errors.print(message, style="dim", markup=False, highlight=False, soft_wrap=True)


if not log.handlers:  # else the program that imports this has its own way
    log.addHandler(_OnConsole())
    log.propagate = False  # Hydra's launchers put a handler on the root, which would say all of it twice
if log.level == logging.NOTSET:
    log.setLevel(logging.INFO)


def warn(message: str) -> None:
    """Say what must not be missed; on standard error, like every notice."""
    log.warning("%s", message)


def note(message: str) -> None:
    """Say what is good to know."""
    log.info("%s", message)


def silence() -> None:
    """Say nothing more: for all processes of a run but the first."""
    console.quiet = errors.quiet = True
    log.setLevel(logging.CRITICAL + 1)


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
    both: Any = (_Labelled(sys.stdout, label), _Labelled(sys.stderr, label))
    console.file, errors.file = both
    try:
        yield
    finally:
        # None: the standard streams, whichever these are by then. What they were may be closed.
        console.file = errors.file = None  # type: ignore[assignment]


class Reporter:
    """Follows long work: bars on a terminal, a few plain lines elsewhere. Use as a context manager."""

    def __init__(self, title: str, total_steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
        status = f"loss {loss:.3f} · {tokens_per_s:,.0f} tokens/s"
        self.bars.update(self.main, completed=number, status=status)

    def advance(self, part: str, n: int, total: int) -> None:
        """Progress inside an evaluation: n more of the total are done."""
        if part != self.part_name:
            self.end_evaluation()
            self.part = self.bars.add_task(f"  evaluating {part}", total=total, status="")
            self.part_name = part
        self.bars.advance(self.part, n)

    def part_of(self, part: str, total: int) -> Callable[[int], None]:
        """Return what tells the progress of one part: called with the number that is done."""
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
    """Return a plain two-column table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, value)
    return table
