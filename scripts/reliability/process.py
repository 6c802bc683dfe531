"""The command line in processes of its own, that can be killed, starved and cut off.

They are forked from one that has imported everything, so that twenty kills do not cost twenty imports.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

import gdo_cli.experiment.run  # noqa: F401 - imported once, here
from gdo_cli.cli.app import app

TIME_LIMIT_S = 300.0


@dataclass
class Ended:
    """How a process ended: the exit code as a shell gives it, what it said, how long it took."""

    code: int
    said: str
    seconds: float


@dataclass
class Process:
    pid: int
    log: Path
    began: float = field(default_factory=time.monotonic)
    code: int | None = None

    def running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended(status)
        return self.code is None

    def _ended(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.code = 128 - code if code < 0 else code

    def signal(self, number: int) -> None:
        if self.running():
            os.kill(self.pid, number)

    def wait(self, limit: float = TIME_LIMIT_S) -> Ended:
        while self.running():
            if time.monotonic() - self.began > limit:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return Ended(-1, f"still running after {limit:.0f} s\n{self.said()}", limit)
            time.sleep(0.005)
        assert self.code is not None
        return Ended(self.code, self.said(), time.monotonic() - self.began)

    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")


def start(
    words: list[str],
    log: Path,
    env: dict[str, str] | None = None,
    before: Callable[[], None] = lambda: None,
) -> Process:
    """``gdo WORDS`` in a process of its own, ``before`` called in it first; what it says goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Process(pid, log)
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        random.seed()
        os.environ.update(env or {})
        before()
        app(words, standalone_mode=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def gdo(
    *words: str,
    log: Path,
    env: dict[str, str] | None = None,
    before: Callable[[], None] = lambda: None,
    limit: float = TIME_LIMIT_S,
) -> Ended:
    return start(list(words), log, env, before).wait(limit)


def until(condition: Callable[[], bool], limit: float = 120.0) -> bool:
    """Wait for it; False if it does not come."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A file system of its own size in memory.

    Raises:
        PermissionError: this process may not mount one.
    """
    at.mkdir(parents=True, exist_ok=True)
    _mount(at, f"size={size}")
    try:
        yield at
    finally:
        os.system(f"umount -l '{at}'")


def remount(at: Path, options: str) -> None:
    _mount(at, f"remount,{options}")


def _mount(at: Path, options: str) -> None:
    if os.system(f"mount -t tmpfs -o {options} tmpfs '{at}' 2>/dev/null"):
        raise PermissionError(f"{at}: no file system can be mounted here")
