"""Whether a grown MLP still computes what it did: one probe input through each, before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.utils.quantization_utils import Bnb8bitBackend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gdo_cli.growth.experts import GrownExperts
from gdo_cli.growth.layer import GrownLinear, GrownRows
from gdo_cli.lm.pairs import Pair, find_pairs

# Of the largest output, for copies other than two, whose halves add up to the very number. What mixes
# projections up, or norms over all copies, is off by a tenth and more.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
# A base of 8 bits also rounds what goes into it, by up to 1/254 of the largest input; its copies do not.
EIGHT_BITS = 0.05
ROWS = 4  # of the probe input


@torch.no_grad()
def require_same_function(model: nn.Module, adapter_name: str) -> None:
    """Raise unless every module with new columns and their row computes what the base computes.

    Modules that cannot be asked alone (they want more than one tensor) and weights that are not there yet
    (on the meta device) are passed over.

    Raises:
        ValueError: it names the first that does not, and what is known of the reason.
    """
    layers = {
        n: m for n, m in model.named_modules() if isinstance(m, GrownLinear) and adapter_name in m.growth
    }
    _require_same_experts(model, adapter_name)
    rows = [name for name, layer in layers.items() if isinstance(layer, GrownRows)]
    for pair in find_pairs([name for name in layers if name not in rows], rows):
        together = [layers[name] for name in (*pair.columns, pair.row)]
        module = model.get_submodule(pair.place)
        if any(p.is_meta for layer in together for p in layer.parameters()):
            continue
        drawn = torch.randn(1, ROWS, together[0].in_features, generator=torch.Generator().manual_seed(0))
        weight = together[0].base_weight
        x = drawn.to(weight.device, weight.dtype)
        with _evaluated(module), _only(together, None):
            expected = _output(module, x)
        if expected is None:
            _require_stock_forward(pair, together)
            continue
        with _evaluated(module), _only(together, adapter_name):
            found = _output(module, x)
        eight = any(isinstance(layer.quantization_backend, Bnb8bitBackend) for layer in together)
        tolerance = EIGHT_BITS if eight else TOLERANCE.get(expected.dtype, 1e-4)
        _compare(pair.place, type(module).__name__, found, expected, tolerance)


def _require_same_experts(model: nn.Module, adapter_name: str) -> None:
    """Ask every expert about a token of its own, grown and as the one wide module that it may become.

    Raises:
        ValueError: it names the first module that computes something else.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, GrownExperts) or adapter_name not in layer.growth:
            continue
        row = layer.base_parameters()[layer.held.row]
        if row.is_meta:
            continue
        n, width = row.shape[0], row.shape[2 if layer.held.flipped else 1]
        drawn = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
        given = (
            drawn.to(row),
            torch.arange(n, device=row.device)[:, None],
            torch.ones(n, 1, dtype=row.dtype, device=row.device),
        )
        kind = type(layer.get_base_layer()).__name__
        expected = _output(layer.get_base_layer(), *given)
        if expected is None:
            raise ValueError(f"{name} cannot grow: a {kind} does not run on one token for each expert")
        with _only([layer], adapter_name):
            found = _output(layer, *given)
        for one in (found, _output(layer.widened([adapter_name]), *given)):
            _compare(name, kind, one, expected, TOLERANCE.get(expected.dtype, 1e-4))


def _require_stock_forward(pair: Pair, layers: list[Any]) -> None:
    """Where a module cannot be asked, its layers have to be what they are taken for."""
    for name, layer in zip((*pair.columns, pair.row), layers, strict=True):
        kind = type(layer.get_base_layer())
        if kind.forward not in (nn.Linear.forward, Conv1D.forward) and not layer.quantization_backend:
            raise ValueError(f"{name} is a {kind.__name__}: only nn.Linear and Conv1D can grow")
        if getattr(layer, "projections", 1) > 1:
            raise ValueError(f"{name} holds several projections as one; how they are told apart is unknown")


def _compare(name: str, kind: str, found: Tensor | None, expected: Tensor, tolerance: float) -> None:
    told = f"{name or kind} cannot grow: "
    between = "something between its columns and its row (a norm, a product of halves) works on all of them"
    if found is None:
        raise ValueError(f"{told}it does not run with the grown layers; {between}")
    scale, worst = float(expected.abs().max()), float((found - expected).abs().max())
    if not math.isfinite(worst):
        raise ValueError(f"{told}its output is not finite")
    if worst > tolerance * scale:
        raise ValueError(f"{told}its output changes by {worst / scale if scale else worst:.2%}; {between}")


def _output(module: nn.Module, *given: Tensor) -> Tensor | None:
    """What a module makes of tensors; None where it makes nothing of them."""
    try:
        out: Any = module(*given)
    except Exception:  # it may want anything else
        return None
    out = out[0] if isinstance(out, tuple) and out else out
    return out if isinstance(out, Tensor) and out.is_floating_point() else None


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Without dropout."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _only(layers: list[Any], adapter_name: str | None) -> Iterator[None]:
    """With one adapter of the grown layers, or none."""
    before: list[tuple[Any, Any, bool]] = [(m, m._active_adapter, m._disable_adapters) for m in layers]
    for layer in layers:
        layer._disable_adapters = adapter_name is None
        layer._active_adapter = [adapter_name] if adapter_name else layer._active_adapter
    try:
        yield
    finally:
        for layer, active, disabled in before:
            layer._active_adapter, layer._disable_adapters = active, disabled
