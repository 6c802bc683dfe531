"""What a run goes on from after it was cut off, so that it ends in the same bits as if it had not been.

One file in the run's folder, ``checkpoint.pt``, by ``torch.save``. It is read as data alone: nothing in it
can run code. A new one is written beside the old one and renamed over it.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdo_cli.runs.folder import CHECKPOINT, RunFolder
from gdo_cli.support.console import warn
from gdo_cli.support.errors import first_line
from gdo_cli.support.files import write_atomically
from gdo_cli.training.distributed import full_tensor, is_rank_zero, max_over_ranks, on_rank_zero, shard_like

# Unless told otherwise a checkpoint is written once a minute, or less often where that would cost more
# than this share of the time (3 GB for all of a 270M: ten seconds). Until the first is written, its cost is
# taken from its size.
EVERY_SECONDS, SHARE, BYTES_PER_SECOND = 60.0, 0.05, 3e8


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
        try:
            write_atomically(file, lambda stream: torch.save(vars(self), stream))
        except RuntimeError as error:  # torch's writer stumbles over what the disk has said before
            raise OSError(first_line(error.__context__ or error)) from error

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
        tensors: gives the run's tensors, by name, the same ones each time.
        state: gives what :meth:`find` will give back.
    """

    def __init__(
        self,
        folder: RunFolder,
        facts: dict[str, Any],
        every: int | None,
        tensors: Callable[[], dict[str, Tensor]] = dict,
        state: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.folder, self.file = folder, folder.path / CHECKPOINT
        self.facts = json.loads(json.dumps(facts))  # as they come back from the file
        self.every, self.tensors, self.state = every, tensors, state
        self.found: Checkpoint | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.written = time.monotonic()
        self.cost: float | None = None

    def find(self) -> dict[str, Any] | None:
        """Return what the last checkpoint says of the run, if there is one to go on from, and put its tensors
        in their place."""
        if not on_rank_zero(self._usable):
            return None
        self.found = self.found or Checkpoint.read(self.file)  # the first process has checked it
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(self.found.tensors[name])
        return self.found.run

    def _usable(self) -> bool:
        if not self.file.exists():
            return False
        try:
            found = Checkpoint.read(self.file)
            if other := [key for key, value in self.facts.items() if found.facts.get(key) != value]:
                raise Unusable(f"made with other {', '.join(other)}")
            self.folder.cut_metrics(found.metrics)
            self.found = found
        except (Unusable, ValueError) as error:
            warn(f"{self.file} is of no use ({error}): the run starts again")
        return self.found is not None

    def attach(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> int:
        """Take the run's optimizer and put it where the checkpoint left it; returns the steps done."""
        self.optimizer, self.scheduler = optimizer, scheduler
        self.written = time.monotonic()
        if self.found is None:
            return 0
        found, self.found = self.found, None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Cloned, for the file is only mapped, and would fill the disk beside its successor.
        optimizer.load_state_dict(_each(found.optimizer, lambda i, t: shard_like(t.clone(), parameters[i])))
        scheduler.load_state_dict(found.scheduler)
        _set_random_states(found.random)
        return found.step

    def after(self, step: int, stopping: bool = False) -> None:
        """Write a checkpoint after a step if it is time."""
        if self.every == 0 or self.optimizer is None:
            return
        if self.cost is None:
            self.cost = self._size() / BYTES_PER_SECOND
        due = time.monotonic() - self.written >= max(EVERY_SECONDS, self.cost / SHARE)
        if stopping or (step % self.every == 0 if self.every else max_over_ranks(due)):
            self.save(step)

    def _size(self) -> int:
        """Return the bytes of the next checkpoint; to be called after a step, when the moments are there."""
        assert self.optimizer is not None
        return _bytes([*self.tensors().values(), *_tensors_in(self.optimizer.state_dict()["state"])])

    def save(self, step: int) -> None:
        """Write a checkpoint; a disk that is full costs the checkpoint, not the run."""
        assert self.optimizer is not None
        began = time.monotonic()
        # Every process may have a piece of them.
        tensors = {name: _whole(tensor) for name, tensor in self.tensors().items()}
        optimizer = _each(self.optimizer.state_dict(), lambda _, tensor: _whole(tensor))
        on_rank_zero(lambda: self._write(step, tensors, optimizer))
        self.written = time.monotonic()
        self.cost = self.written - began

    def _write(self, step: int, tensors: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        size = _bytes([*tensors.values(), *_tensors_in(optimizer["state"])])
        try:
            if (free := shutil.disk_usage(self.file.parent).free) < 1.01 * size:
                raise OSError(f"{size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB free")
            metrics, scheduler = self.folder.measure_metrics(), self.scheduler.state_dict()
            Checkpoint(
                step, self.facts, self.state(), metrics, tensors, optimizer, scheduler, _random_states()
            ).write(self.file)
        except OSError as error:
            warn(f"step {step}: no checkpoint could be written ({error}); the run goes on without")


def _each(optimizer: dict[str, Any], change: Callable[[int, Tensor], Tensor]) -> dict[str, Any]:
    """The state of an optimizer with every tensor of it changed, given the index of its parameter."""
    state = {i: _each_tensor(of_one, partial(change, i)) for i, of_one in optimizer["state"].items()}
    return optimizer | {"state": state}


def _whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor on rank zero, nothing on the others; to be called by every process."""
    complete = full_tensor(tensor.detach())
    return complete.cpu() if is_rank_zero() else torch.empty(0)


def _each_tensor(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return an optimizer's state with every tensor changed: dictionaries of tensors and plain types."""
    if isinstance(state, dict):
        return {key: _each_tensor(value, change) for key, value in state.items()}
    return change(state) if isinstance(state, Tensor) else state


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


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
