"""The list of faults: each brings something about for real and says what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reliability.work import Outcome

Try = Callable[[Path, int], Outcome]


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        how: how it is brought about.
        times: how often, for the page.
        quick: how often in ``make test-faults``.
        work: takes an empty folder and the number of times.
    """

    name: str
    how: str
    times: int
    quick: int
    work: Try


FAULTS: list[Fault] = []


def fault(name: str, how: str, times: int, quick: int | None = None) -> Callable[[Try], Try]:
    """Adds a function to the list."""

    def note(work: Try) -> Try:
        FAULTS.append(Fault(name, how, times, min(times, 5) if quick is None else quick, work))
        return work

    return note
