"""Fused elementwise work of training steps, by torch.compile where there is a compiler."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import _StopRecomputationError

from gdo_cli.lm.decoder import find_decoder
from gdo_cli.support.console import note

# A compilation costs some ten seconds (a few where it is in torch's cache) and saves a fifth of
# a G-Freeze step on the CPU.
WORTH_STEPS = 100


@contextmanager
def compiled(model: nn.Module, wanted: str, steps: int) -> Iterator[None]:
    """Run the MLPs and norms of every layer compiled while the model is in training mode.

    Evaluation stays as it is, so that what is measured does not depend on a compiler. Attention and the
    large products are other libraries' code already.

    Args:
        wanted: ``auto`` (where a compiler works and there are WORTH_STEPS), ``always`` or ``never``.
    """
    worth = wanted == "always" or (wanted == "auto" and steps >= WORTH_STEPS and _has_compiler())
    parts = list(_parts(model)) if worth and _works() else []
    failures: list[str] = []
    for part in parts:
        part.forward = _in_training(part, part.forward, failures)
    try:
        yield
    finally:
        for part in parts:
            del part.forward  # what stands behind it is the class's own


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    try:
        layers = find_decoder(model).layers
    except ValueError:  # what is not found runs as it is
        return
    for layer in layers:
        for name, module in layer.named_children():
            if name == "mlp" or type(module).__name__.endswith("Norm"):
                yield module


def _in_training(part: nn.Module, slow: Callable[..., Any], failures: list[str]) -> Callable[..., Any]:
    fast: Callable[..., Any] = torch.compile(slow, dynamic=True)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if part.training and not failures:  # the first part that does not compile ends it for all
            try:
                return fast(*args, **kwargs)
            except (_StopRecomputationError, torch.OutOfMemoryError, MemoryError):
                raise  # no fault of the compiler's; the first ends a layer's second forward pass
            except Exception as error:  # the plain code says so if the fault is not the compiler's
                failures.append(type(error).__name__)
                note(f"{type(part).__name__} does not compile ({failures[0]}); going on without")
        return slow(*args, **kwargs)

    return forward


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++"))


def _works() -> bool:
    """Whether a compiled function runs forward and backward here; a notice if it does not."""

    def double(x: Tensor) -> Tensor:
        return torch.sin(x) * 2

    try:
        fast: Any = torch.compile(double, dynamic=True)
        fast(torch.ones(3, requires_grad=True)).sum().backward()
    except Exception as error:  # a toolchain can be broken in any way
        note(f"torch.compile does not work here ({type(error).__name__}), so training runs without it")
        return False
    return True
