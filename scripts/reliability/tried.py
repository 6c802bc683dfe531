"""The section "What was tried" of the page: cases by kind, from ``tried.txt`` beside this file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gdo_cli.support.markdown import table

CASES = Path(__file__).with_name("tried.txt")
HEADING = "## What was tried"
ABOUT = """Bug reports of people who fine-tune, and further members of their kinds, tried on the command line
or by a test. An outcome is what is seen now."""


def section(text: str) -> str:
    """Return the section for cases written ``fault | how tried | outcome``, below lines ``# KIND``.

    Raises:
        ValueError: a line that is neither.
    """
    parts = [HEADING, ABOUT]
    for kind, cases in _by_kind(text):
        parts += [f"### {kind}", table(("fault", "how tried", "outcome"), cases) + "\n"]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def with_section(page: str, text: str) -> str:
    """Return the page with the section at its end, in the place of an earlier one."""
    return f"{page.partition(HEADING)[0].rstrip()}\n\n{section(text)}"


def _by_kind(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    kinds: dict[str, list[list[str]]] = {}
    cases: list[list[str]] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("# "):
            cases = kinds.setdefault(line[2:].strip(), [])
        elif line.strip():
            case = [cell.strip() for cell in line.split(" | ")]  # a pipe of a shell is written without spaces
            if cases is None or len(case) != 3 or not all(case):
                raise ValueError(f"line {number}: not of the form 'fault | how tried | outcome': {line}")
            cases.append(case)
    yield from kinds.items()
