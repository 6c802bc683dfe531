"""Mistakes a user can mend: one message that names the culprit, the choices and the mend."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can put right; the command line prints it in one piece and exits with 2.

    Its arguments are the lines of the message: one, but for lists.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class RunFailed(Exception):
    """A run that started and could not end (loss not finite, growth not exact); exits with 1."""


def suggest(word: str, allowed: Iterable[str], lister: str = "") -> str:
    """``did you mean …? choose from …``, the tail of every message about a wrong word.

    Of what can be many, the command ``lister`` shows all; the message then names the nearest alone.
    """
    words = sorted(allowed)
    near = get_close_matches(word, words, n=1, cutoff=0.5) if word else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    if not words:
        return "there is nothing to choose from"
    return f"{hint}{lister} lists all {len(words)}" if lister else f"{hint}choose from: {', '.join(words)}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says (two after a colon), or its kind if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__


def require_one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise a UserError unless the value is one of the allowed words."""
    allowed = list(allowed)
    if value not in allowed:
        raise UserError(f"{key}={value}: unknown; {suggest(str(value), allowed)}")


def require(condition: bool, message: str) -> None:
    """Raise a UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def is_rank_zero() -> bool:
    """Return whether this is the one of several processes on the same work that a person hears."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Hold back what ends a process beside the first one: that one is likely to say it too, and the
    launcher then ends the others before they do."""
    try:
        yield
    except BaseException:
        if not is_rank_zero():
            time.sleep(2)
        raise
