"""What a person is told: notices and progress on standard error, tables and results on standard output.

Strings are printed as they are, whatever Rich would make of brackets and ``:emoji:``; looks are given beside
them (:func:`styled`, ``style=``). Notices go through the logger ``gdo``, so that who uses gdo as a library
can silence or route them.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(markup=False, emoji=False, highlight=False)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)
for each in (console, errors):
    if each.width < 20:  # COLUMNS=0, where nobody knows, is no width, and in very few nothing can be read
        each.width = 20 if each.width else 80
log = logging.getLogger("gdo")
# What moves a cursor, breaks a line or has no letter: a name with it would pass for something else.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return text as one line: line breaks and other control characters written as Python writes them."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def styled(*parts: tuple[str, str] | str) -> Text:
    """Return a line of texts, each as it is, or with the style beside it."""
    return Text.assemble(*parts)


def tell(word: str, style: str, message: str) -> None:
    """Say a message of one line on standard error, behind a word in a style."""
    errors.print(styled((word, style), f" {visible(message)}"), soft_wrap=True)


class _OnConsole(logging.Handler):
    """Prints notices above the bars that the same console may draw; warnings bear the word."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            tell("warning", "bold yellow", message)
        else:
            errors.print(styled((visible(message), "dim")), soft_wrap=True)


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
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
            console=errors,
            disable=not errors.file.isatty() or errors.is_dumb_terminal,  # a log in colour is no terminal
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
        self.bars.console.print(styled((f"{step!s:>6}", "bold"), f"  {shown}"), soft_wrap=True)


def key_values(rows: dict[str, str]) -> Table:
    """Return a plain two-column table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, "\n".join(map(visible, value.split("\n"))))
    return table
