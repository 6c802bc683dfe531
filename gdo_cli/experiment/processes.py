"""Several processes on one run: how they meet, and who holds its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from gdo_cli.config.run_config import RunConfig, WandbConfig
from gdo_cli.runs.folder import RunFolder
from gdo_cli.support.console import silence
from gdo_cli.support.errors import UserError
from gdo_cli.training.distributed import is_rank_zero, on_rank_zero, world_size

# The others wait while the first evaluates; a process that is lost is noticed by the launcher.
PATIENCE = timedelta(days=2)


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

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if is_rank_zero():
        return config
    silence()
    return replace(config, wandb=WandbConfig())


@contextmanager
def lock_on_rank_zero(folder: RunFolder) -> Iterator[None]:
    """Hold a run's folder by the first process, for all; a mark of failure is then of this attempt."""
    with ExitStack() as stack:
        on_rank_zero(lambda: stack.enter_context(folder.lock()))
        if world_size() > 1:
            on_rank_zero(folder.prepare_resume)
        yield


def local_rank_zero_first() -> AbstractContextManager[Any]:
    """Within, the first process of each machine is ahead: it may download or convert what the others read."""
    if world_size() == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().local_main_process_first()
