"""What a run goes on from after it was cut off, so that it ends in the same bits as if it had not been.

One file in the run's folder, ``checkpoint.pt``, by ``torch.save``. It is read as data alone: nothing in it
can run code. A new one is written beside the old one and renamed over it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gdo_cli.runs.folder import CHECKPOINT, RunFolder
from gdo_cli.support.console import warn
from gdo_cli.support.errors import first_line
from gdo_cli.training.distributed import full_tensor, is_rank_zero, max_over_ranks, on_rank_zero, shard_like

# Unless told otherwise a checkpoint is written once a minute, or less often where that would cost more
# than this share of the time (3 GB for all of a 270M: ten seconds).
EVERY_SECONDS, SHARE = 60.0, 0.05


class Unusable(Exception):
    """A file that is no checkpoint, or not a whole one."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and plain types, by what they are of.

    Attributes:
        facts: what decides the numbers beside the configuration.
        run: what the run says of itself.
        metrics: length and checksum of metrics.jsonl.
        tensors: what trains, by name.
    """

    step: int
    facts: dict[str, Any]
    run: dict[str, Any]
    metrics: dict[str, int]
    tensors: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    random: dict[str, Any]

    def write(self, file: Path) -> None:
        """Write the whole file, or leave the old one.

        Raises:
            OSError: no room, or no permission; nothing is left behind.
        """
        beside = file.with_name(f".{file.name}.tmp")
        try:
            with beside.open("wb") as stream:
                torch.save(vars(self), stream)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(file)
        except RuntimeError as error:  # torch's writer stumbles over what the disk has said before
            raise OSError(first_line(error.__context__ or error)) from error
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def read(cls, file: Path) -> Checkpoint:
        """Return the checkpoint, memory-mapped.

        Raises:
            Unusable: cut short, altered, or something else altogether.
        """
        try:
            with zipfile.ZipFile(file) as archive:  # torch writes checksums, and reads past them
                altered = archive.testzip()
            if altered is None:
                return cls(**torch.load(file, map_location="cpu", weights_only=True, mmap=True))
        except Exception as error:  # a file of anything breaks anywhere
            raise Unusable(f"it cannot be read: {first_line(error)}") from error
        raise Unusable(f"its checksum is wrong: {altered}")


class CheckpointManager:
    """Writes the checkpoints of one run, and puts the last one back.

    Args:
        facts: what decides the numbers beside the configuration; a checkpoint made under others is not
            gone on from.
        every: steps between checkpoints; 0 for none; None for as often as it costs little.
    """

    def __init__(self, folder: RunFolder, facts: dict[str, Any], every: int | None) -> None:
        self.folder = folder
        self.facts = json.loads(json.dumps(facts))  # as they come back from the file
        self.every = every
        self.file = folder.path / CHECKPOINT
        self.found: Checkpoint | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.written = time.monotonic()
        self.cost = 0.0
        self.own: Callable[[], dict[str, Any]] = dict
        self.named: Callable[[], dict[str, Tensor]] = dict

    def find(self) -> dict[str, Any] | None:
        """Return what the last checkpoint says of the run, if there is one to go on from."""
        run = on_rank_zero(self._find)
        if run is not None and self.found is None:  # the first process has checked it
            self.found = Checkpoint.read(self.file)
        return run

    def _find(self) -> dict[str, Any] | None:
        if not self.file.exists():
            return None
        try:
            found = Checkpoint.read(self.file)
            if other := [key for key, value in self.facts.items() if found.facts.get(key) != value]:
                raise Unusable(f"made with other {', '.join(other)}")
            self.folder.cut_metrics(found.metrics)
        except (Unusable, ValueError) as error:
            warn(f"{self.file} is of no use ({error}): the run starts again")
            return None
        self.found = found
        return found.run

    def follow(
        self,
        named: Callable[[], dict[str, Tensor]],
        own: Callable[[], dict[str, Any]],
    ) -> None:
        """Say what a checkpoint is made of, and put the found one's tensors in their place.

        Args:
            named: the run's tensors, by name, the same ones each time.
            own: what :meth:`find` gives back.
        """
        self.named, self.own = named, own
        if self.found is not None:
            with torch.no_grad():
                for name, tensor in named().items():
                    tensor.copy_(self.found.tensors[name])

    def attach(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> int:
        """Take the run's optimizer and put it where the checkpoint left it; returns the steps done."""
        self.optimizer, self.scheduler = optimizer, scheduler
        self.written = time.monotonic()
        if self.found is None:
            return 0
        found, self.found = self.found, None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state = {
            index: _each_tensor(of_one, partial(_own_piece, parameters[index]))
            for index, of_one in found.optimizer["state"].items()
        }
        optimizer.load_state_dict(found.optimizer | {"state": state})
        scheduler.load_state_dict(found.scheduler)
        _set_random_states(found.random)
        return found.step

    def due(self) -> bool:
        """Return whether the next checkpoint's time has come, where it is not told in steps."""
        return time.monotonic() - self.written >= max(EVERY_SECONDS, self.cost / SHARE)

    def after(self, step: int, stopping: bool = False) -> bool:
        """Write a checkpoint after a step if it is time; True if it stands."""
        if self.every == 0 or self.optimizer is None:
            return False
        if stopping or (step % self.every == 0 if self.every else max_over_ranks(self.due())):
            return self.save(step)
        return False

    def save(self, step: int) -> bool:
        """Write a checkpoint; a disk that is full costs the checkpoint, not the run."""
        began = time.monotonic()
        tensors, optimizer = self._tensors()  # every process may have a piece of them
        try:
            return on_rank_zero(lambda: self._write(step, tensors, optimizer))
        finally:
            self.written = time.monotonic()
            self.cost = self.written - began

    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the run's tensors and the optimizer's state, whole on rank zero, which writes them."""
        assert self.optimizer is not None
        tensors = {name: _whole(tensor) for name, tensor in self.named().items()}
        optimizer = self.optimizer.state_dict()
        return tensors, optimizer | {"state": _each_tensor(optimizer["state"], _whole)}

    def _write(self, step: int, tensors: dict[str, Tensor], optimizer: dict[str, Any]) -> bool:
        try:
            self._need_room([*tensors.values(), *_tensors_in(optimizer["state"])])
            metrics = self.folder.measure_metrics()
            scheduler = self.scheduler.state_dict()
            Checkpoint(
                step, self.facts, self.own(), metrics, tensors, optimizer, scheduler, _random_states()
            ).write(self.file)
        except OSError as error:
            warn(f"step {step}: no checkpoint could be written ({error}); the run goes on without")
            return False
        return True

    def _need_room(self, tensors: list[Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        free = shutil.disk_usage(self.file.parent).free
        if free < 1.01 * size:
            raise OSError(f"{size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB free")


def _whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor on rank zero, nothing on the others; to be called by every process."""
    complete = full_tensor(tensor.detach())
    return complete.cpu() if is_rank_zero() else torch.empty(0)


def _own_piece(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return what of a read tensor belongs to this process's piece of the parameter.

    Cloned, for the file is only mapped, and would fill the disk beside its successor.
    """
    return shard_like(tensor.clone(), parameter)


def _each_tensor(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return an optimizer's state with every tensor changed: dictionaries of tensors and plain types."""
    if isinstance(state, dict):
        return {key: _each_tensor(value, change) for key, value in state.items()}
    return change(state) if isinstance(state, Tensor) else state


def _tensors_in(state: Any) -> list[Tensor]:
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in _tensors_in(value)]
    return [state] if isinstance(state, Tensor) else []


def _random_states() -> dict[str, Any]:
    """Return the states of every generator that a step may draw from, as tensors and plain types."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
    }


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
    if torch.backends.mps.is_available() and states["mps"] is not None:
        torch.mps.set_rng_state(states["mps"])
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Return what trains, by name."""
    return {f"weight.{name}": p for name, p in model.named_parameters() if p.requires_grad}
