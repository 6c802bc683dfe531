"""SIGTERM and Ctrl-C: work ends at the next place where nothing is lost by it; a second one, at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from gdo_cli.support.errors import is_rank_zero

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(BaseException):
    """Asked to stop by a signal; what no ``except Exception`` may hold up.

    Attributes:
        code: the exit code by which a shell knows the signal.
        said: what has become of the work, for the message.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        self.name = NAMES[signal.Signals(number)]
        self.said = "; the same command goes on where this one ended"

    def __str__(self) -> str:
        return f"stopped by {self.name}{self.said}"


class Stop:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.handled: list[signal.Signals] = []
        self.patient = False

    def check(self) -> None:
        """Raise Stopped if asked to."""
        if self.asked is not None:
            raise Stopped(self.asked)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a signal is only noted, until :meth:`check`."""
        before, self.patient = self.patient, True
        try:
            yield
        finally:
            self.patient = before

    def handle(self, number: int, frame: FrameType | None) -> None:
        for each in self.handled:  # a second one ends the process, whatever it is doing
            signal.signal(each, signal.SIG_DFL)
        self.asked = number
        with suppress(OSError):  # the terminal may be gone
            if os.isatty(2):
                os.write(2, b"\x1b[?25h")  # the cursor, which progress bars hide
        if not self.patient:
            raise Stopped(number)
        if is_rank_zero():
            name = NAMES[signal.Signals(number)]
            with suppress(OSError):  # Ctrl-C ends the reader of a pipe too
                os.write(2, f"\n{name}: ending after this step or batch (again: at once)\n".encode())


_stop = Stop()


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within, the two signals stop the work in order; where another program handles them, it goes on to.

    Raises:
        Stopped: at its end at the latest.
    """
    global _stop
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    main = threading.current_thread() is threading.main_thread()
    free = [n for n in NAMES if main and signal.getsignal(n) is usual[n]]
    if not free:  # inside another run, under a launcher, or in a thread
        yield _stop if main else Stop()
        return
    _stop = Stop()
    _stop.handled = free
    for number in free:
        signal.signal(number, _stop.handle)
    try:
        yield _stop
        _stop.check()
    finally:
        for number in free:
            signal.signal(number, usual[number])
