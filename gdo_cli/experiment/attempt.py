"""One attempt at a run: the processes that make it, who holds its folder, and how it may end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from gdo_cli.config.run_config import RunConfig, WandbConfig
from gdo_cli.runs.folder import CHECKPOINT, RunFolder
from gdo_cli.support.console import silence
from gdo_cli.support.errors import RunFailed, UserError, first_line
from gdo_cli.support.signals import Stopped
from gdo_cli.training.distributed import is_rank_zero, on_rank_zero, world_size

# The others wait while the first evaluates; a process that is lost is noticed by the launcher.
PATIENCE = timedelta(days=2)
_ALLOCATORS = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


def init_distributed(config: RunConfig) -> RunConfig:
    """Meet the processes that a launcher has started beside this one; returns the run as this one sees it.

    Raises:
        UserError: the launcher is configured for what gdo does not do.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise UserError("accelerate is configured for DeepSpeed, which gdo does not use: choose its FSDP 2")
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        if os.environ.get("FSDP_VERSION", "2") != "2":
            raise UserError("accelerate is configured for FSDP 1, which gdo does not use: --fsdp_version 2")
        config = replace(config, train=replace(config.train, shard=True))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        try:
            PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        except ValueError as error:
            raise UserError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']}: {first_line(error)}; start gdo by torchrun or "
                "accelerate launch, or unset WORLD_SIZE"
            ) from error
    if is_rank_zero():
        return config
    silence()
    return replace(config, wandb=WandbConfig())


def local_rank_zero_first() -> AbstractContextManager[Any]:
    """Within, the first process of each machine is ahead: it may download or convert what the others read."""
    if world_size() == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().local_main_process_first()


@contextmanager
def lock_on_rank_zero(folder: RunFolder) -> Iterator[None]:
    """Hold a run's folder by the first process, for all; a mark of failure is then of this attempt."""
    with ExitStack() as stack:
        on_rank_zero(lambda: stack.enter_context(folder.lock()))
        if world_size() > 1:
            on_rank_zero(folder.prepare_resume)
        yield


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
        if isinstance(error, (OSError, SafetensorError)):
            file = getattr(error, "filename", None) or folder.path
            reason = getattr(error, "strerror", None) or first_line(error)
            told = RunFailed(f"{where()}: {file}: {reason}; with that mended, {_next_time(folder)}")
            folder.fail(str(told))
            raise told from error
        ours = isinstance(error, RunFailed)
        folder.fail(str(error) if ours else f"{where()}: {type(error).__name__}: {first_line(error)}")
        raise


def _next_time(folder: RunFolder) -> str:
    if (folder.path / CHECKPOINT).is_file():
        return "the same command goes on from the last checkpoint"
    return "the same command starts again (there is no checkpoint yet)"


@contextmanager
def enough_memory(where: Callable[[], str], mend: str) -> Iterator[None]:
    """Say where memory gave out and what to lower.

    Raises:
        RunFailed: it did.
    """
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise RunFailed(f"{where()}: out of memory ({first_line(error)}); {mend}") from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch has no kind of its own for the CPU's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATORS)
    return told or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
