"""Standard streams that end no work: what they cannot take is dropped, letters they lack are replaced."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

NAMES = {1: "stdout", 2: "stderr"}


class _Standard(io.FileIO):
    """A standard stream as a file that takes all it is given.

    Attributes:
        lost: why something could not be written; a reader that goes, as ``head`` does, wants no more.
    """

    lost: OSError | None = None

    def write(self, content: bytes) -> int:  # type: ignore[override]
        try:
            while (written := super().write(content)) is None:  # another program has made it non-blocking
                select.select([], [self], [])
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.lost = self.lost or error
            return len(content)
        return written


def harden_streams() -> None:
    """Let printing raise nothing from now on: on a full disk, to a reader that has gone, in any encoding.

    A run goes on where nobody hears of it any more, and what it was to say last is in its folder.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # of a closed stream: the next file would take its number, and get what libraries print
    os.close(number)
    for number, name in NAMES.items():
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            raw: Any = _Standard(number, "w", closefd=False)
            taking = io.TextIOWrapper(
                io.BufferedWriter(raw), stream.encoding, errors="replace", line_buffering=True
            )
            setattr(sys, name, taking)
        elif isinstance(stream, io.TextIOWrapper):  # of a program that calls this one
            stream.reconfigure(errors="replace")


def lost_output() -> str | None:
    """Return why standard output is not whole, if it is not."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = raw.lost if isinstance(raw, _Standard) else None
    return None if lost is None else lost.strerror or str(lost)
