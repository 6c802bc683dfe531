"""What can end a run that has started, as one message that names the place and the mend."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from safetensors import SafetensorError

from gdo_cli.runs.folder import CHECKPOINT, RunFolder
from gdo_cli.support.errors import RunFailed, UserError, first_line
from gdo_cli.support.signals import Stopped
from gdo_cli.training.distributed import world_size

_ALLOCATORS = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed; torch has no kind of its own for the CPU's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATORS)


@contextmanager
def enough_memory(where: Callable[[], str], mend: str) -> Iterator[None]:
    """Say where memory gave out and what to lower.

    Raises:
        RunFailed: it did.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunFailed(f"{where()}: out of memory ({first_line(error)}); {mend}") from error


@contextmanager
def marked(folder: RunFolder, where: Callable[[], str]) -> Iterator[None]:
    """Mark the run as failed if it does not come to its end, and tell why in one message.

    Raises:
        RunFailed: what it writes cannot be written.
        Stopped: with what has become of the run.
    """
    try:
        yield
    except UserError:
        raise  # it could not begin
    except Stopped as stopped:
        stopped.said = f" {where()}; {_next_time(folder)}"
        raise
    except Exception as error:
        if world_size() > 1 and folder.failure() is not None:
            raise SystemExit(1) from error  # another process has failed, and this one for want of it
        _tell(error, folder, where)


def _tell(error: Exception, folder: RunFolder, where: Callable[[], str]) -> NoReturn:
    if isinstance(error, (OSError, SafetensorError)):
        file = getattr(error, "filename", None) or folder.path
        reason = getattr(error, "strerror", None) or first_line(error)
        told = RunFailed(f"{where()}: {file}: {reason}; with that mended, {_next_time(folder)}")
        folder.fail(str(told))
        raise told from error
    ours = isinstance(error, RunFailed)
    folder.fail(str(error) if ours else f"{where()}: {type(error).__name__}: {first_line(error)}")
    raise error


def _next_time(folder: RunFolder) -> str:
    if (folder.path / CHECKPOINT).is_file():
        return "the same command goes on from the last checkpoint"
    return "the same command starts again (there is no checkpoint yet)"
