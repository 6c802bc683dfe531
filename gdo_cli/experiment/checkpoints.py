"""What a run goes on from after it was cut off, so that it ends in the same bits as if it had not been.

One file in the run's folder, ``checkpoint.safetensors``: what trains, the optimizer's moments and the states
of random number generators as tensors, the rest as JSON in the header with a checksum over all of it.
Nothing in it can run code. A new one is written beside the old one and renamed over it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gdo_cli.runs.folder import CHECKPOINT, RunFolder
from gdo_cli.support.console import warn
from gdo_cli.training.distributed import full_tensor, is_rank_zero, max_over_ranks, on_rank_zero, shard_like

# Unless told otherwise a checkpoint is written once a minute, or less often where that would cost more
# than this share of the time (3 GB for all of a 270M: ten seconds).
EVERY_SECONDS, SHARE = 60.0, 0.05


class Unusable(Exception):
    """A file that is no checkpoint, or not a whole one."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the rest: what JSON can hold."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def write(self, file: Path) -> None:
        """The whole file or the old one.

        Raises:
            OSError: no room, or no permission; nothing is left behind.
        """
        beside = file.with_name(f".{file.name}.tmp")
        state = json.dumps(self.state)
        header = {"state": state, "crc32": str(_crc32(self.tensors, state))}
        try:
            save_file(self.tensors, beside, header)
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(file)
        except SafetensorError as error:  # it has no kinds: a full disk is told in words
            raise OSError(str(error)) from error
        finally:
            beside.unlink(missing_ok=True)

    @staticmethod
    def read(file: Path) -> Checkpoint:
        """The checkpoint, memory-mapped.

        Raises:
            Unusable: cut short, altered, or something else altogether.
        """
        try:
            with safe_open(file, "pt") as content:
                header = content.metadata() or {}
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            if int(header["crc32"]) != _crc32(tensors, header["state"]):
                raise Unusable("its checksum is wrong")
            return Checkpoint(tensors, json.loads(header["state"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise Unusable(f"it cannot be read: {error}") from error


def _crc32(tensors: dict[str, Tensor], state: str) -> int:
    crc = zlib.crc32(state.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        raw: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(raw, crc)
    return crc


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
        """What the last checkpoint says of the run, if there is one to go on from."""
        run = on_rank_zero(self._find)
        if run is not None and self.found is None:  # the first process has checked it
            self.found = Checkpoint.read(self.file)
        return run

    def _find(self) -> dict[str, Any] | None:
        if not self.file.exists():
            return None
        try:
            found = Checkpoint.read(self.file)
            if other := [key for key, value in self.facts.items() if found.state["facts"].get(key) != value]:
                raise Unusable(f"made with other {', '.join(other)}")
            self.folder.cut_metrics(found.state["metrics"])
        except (Unusable, ValueError) as error:
            warn(f"{self.file} is of no use ({error}): the run starts again")
            return None
        self.found = found
        return dict(found.state["run"])

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
                    tensor.copy_(self.found.tensors[f"run.{name}"])

    def attach(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> int:
        """Take the run's optimizer and put it where the checkpoint left it; returns the steps done."""
        self.optimizer, self.scheduler = optimizer, scheduler
        self.written = time.monotonic()
        if self.found is None:
            return 0
        state, tensors = self.found.state, self.found.tensors
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, place = name.partition(".")
            if kind == "optimizer":
                index, _, key = place.partition(".")
                parameter = optimizer.param_groups[0]["params"][int(index)]
                # cloned, for the file is only mapped
                moments.setdefault(int(index), {})[key] = shard_like(tensor.clone(), parameter)
        optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        scheduler.load_state_dict(state["scheduler"])
        _set_random_states(tensors, state["random"])
        self.found = None
        return int(state["step"])

    def due(self) -> bool:
        """Whether the next checkpoint's time has come, where it is not told in steps."""
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
        tensors = self._tensors()  # every process may have a piece of them
        try:
            return on_rank_zero(lambda: self._write(step, tensors))
        finally:
            self.written = time.monotonic()
            self.cost = self.written - began

    def _write(self, step: int, tensors: dict[str, Tensor]) -> bool:
        try:
            checkpoint = self._collect(step, tensors)
            self._need_room(checkpoint)
            checkpoint.write(self.file)
        except OSError as error:
            warn(f"step {step}: no checkpoint could be written ({error}); the run goes on without")
            return False
        return True

    def _tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, whole; by the first process, which writes it."""
        assert self.optimizer is not None
        tensors = {f"run.{name}": tensor for name, tensor in self.named().items()}
        moments = self.optimizer.state_dict()["state"]
        tensors |= {f"optimizer.{i}.{key}": t for i, s in moments.items() for key, t in s.items()}
        kept = {}
        for name, tensor in tensors.items():
            complete = full_tensor(tensor.detach())
            if is_rank_zero():
                kept[name] = complete.cpu().contiguous()
        return kept

    def _collect(self, step: int, tensors: dict[str, Tensor]) -> Checkpoint:
        assert self.optimizer is not None
        optimizer = self.optimizer.state_dict()
        random_tensors, random_rest = _random_states()
        state = {
            "step": step,
            "facts": self.facts,
            "run": self.own(),
            "metrics": self.folder.measure_metrics(),
            "param_groups": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
            "random": random_rest,
        }
        return Checkpoint(tensors | random_tensors, state)

    def _need_room(self, checkpoint: Checkpoint) -> None:
        size = sum(t.numel() * t.element_size() for t in checkpoint.tensors.values())
        free = shutil.disk_usage(self.file.parent).free
        if free < 1.01 * size:
            raise OSError(f"{size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB free")


def _random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of every generator that a step may draw from: as tensors, and what JSON holds."""
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        tensors["random.mps"] = torch.mps.get_rng_state()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def _set_random_states(tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random.cpu"].clone())
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(
            [tensors[f"random.cuda.{i}"].clone() for i in range(torch.cuda.device_count())]
        )
    if torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["random.mps"].clone())
    version, keys, gauss = rest["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, words, *more = rest["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), *more))


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What trains, by name."""
    return {f"weight.{name}": p for name, p in model.named_parameters() if p.requires_grad}
