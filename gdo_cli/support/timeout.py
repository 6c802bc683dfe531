"""Work that may never end, waited for no longer than a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

ANSWER_S = 30.0  # for a question; its own limits count anew with every byte
# For a download to bring anything: ten megabytes are written at a time, so that this is 17 kB a second.
STALL_S = 600.0
T = TypeVar("T")


def within(seconds: float, action: Callable[[], T], moved: Callable[[], float] = lambda: 0) -> T:
    """What an action returns or raises, waited for no longer than this.

    Args:
        moved: how far it has come; the time counts anew whenever this grows.
    Raises:
        TimeoutError: nothing came. The action is left to itself, in a thread that holds up no exit.
    """
    done: SimpleQueue[Callable[[], T]] = SimpleQueue()

    def act() -> None:
        try:
            result = action()
            done.put(lambda: result)
        except BaseException as error:
            done.put(lambda error=error: _raise(error))  # type: ignore[misc]

    threading.Thread(target=act, daemon=True).start()
    so_far = moved()
    while True:
        try:
            answer = done.get(timeout=seconds)
        except Empty:
            if (now := moved()) <= so_far:
                raise TimeoutError(f"no answer within {seconds:g} s") from None
            so_far = now
        else:
            return answer()


def _raise(error: BaseException) -> Any:
    raise error
