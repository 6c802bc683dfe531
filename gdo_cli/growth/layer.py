"""Grown linear layers: the base weight stays where it is, the new weights stand beside it.

Separate products, summed, are what makes k = 2 bit-exact: halving only lowers an exponent, and two
equal halves add up to the original. One concatenated product would round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.quantization_utils import QuantizationBackend, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gdo_cli.growth.config import GrowConfig
from gdo_cli.growth.linear import copies_of_output, keep_readable, plain_like, shape_of, weight_of


class Growth(nn.Module):
    """What one adapter adds to a layer: a weight, and a bias if the base has one. Either may be absent."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)


class GrownLinear(nn.Module, BaseTunerLayer):
    """What grown columns and rows share: adapters by name, and merging into one wide layer.

    Beside a base of 4 or 8 bits stand floats: copies of the numbers that it computes with.
    Several active adapters stand side by side: y = base + Σ_i (y_i − base), each with copies of its own.
    """

    adapter_layer_names = ("grow",)
    other_param_names = ("growth",)
    repeats_bias: ClassVar[bool]  # of the wide layer: one for each copy's outputs, or one for all
    base_layer: nn.Linear | Conv1D
    active_adapters: list[str]
    get_base_layer: Callable[[], Any]
    get_base_weight: Callable[[], Tensor]
    quantization_backend: QuantizationBackend | None
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Linear | Conv1D, adapter_name: str, config: GrowConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.out_features, self.in_features = shape_of(base_layer)
        self.quantization_backend = resolve_quantization_backend(base_layer)
        keep_readable(base_layer)
        self.growth: dict[str, GrowConfig] = {}
        self.grow = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        # The base while a wide layer stands in for it. In a tuple it is no part of the module, whose
        # children PEFT takes for the adapter's.
        self._narrow: tuple[nn.Linear | Conv1D, ...] = ()
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: GrowConfig) -> None:
        """Add an adapter that computes what the base computes.

        Raises:
            ValueError: another one is merged.
        """
        if self.merged:
            raise ValueError(f"adapter {adapter_name!r}: unmerge before adding another one")
        self.growth[adapter_name] = config
        self.grow[adapter_name] = Growth(*self.initial(config))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def base_weight(self) -> Tensor:
        """The weight that it stands beside, (out, in), as floats."""
        return self.get_base_weight() if self.quantization_backend else weight_of(self.get_base_layer())

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the base would compute with another weight, (out, in), in the same kernel."""
        if isinstance(self.get_base_layer(), Conv1D):
            assert bias is not None  # every Conv1D has one
            out = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight.T)
            return out.view(*x.shape[:-1], -1)
        return F.linear(x, weight, bias)

    def initial(self, config: GrowConfig) -> tuple[Tensor | None, Tensor | None]:
        """Return the new weight and bias at the start, as copies of their own."""
        raise NotImplementedError

    def wide(self, names: list[str]) -> tuple[Tensor, Tensor | None]:
        """Return the weight and bias of the one plain linear layer that equals this one."""
        raise NotImplementedError

    def copies(self, name: str) -> int:
        """Return how many copies an adapter adds; G-Train's replace the original, which counts as one."""
        growth = self.growth[name]
        return growth.k if growth.trainable == "columns" else growth.k - 1

    def keeps_old(self, names: list[str]) -> bool:
        """Return whether the base's own copy takes part; beside G-Train alone it does not."""
        return len(names) > 1 or self.growth[names[0]].trainable != "columns"

    def old_share(self, names: list[str]) -> float:
        """Return the share of the output that the base's own copy carries."""
        return 1 - sum(self.share_of(name) for name in names)

    def share_of(self, name: str) -> float:
        """Return the share of the output that an adapter's copies carry at the start."""
        return 1.0 if self.growth[name].trainable == "columns" else self.growth[name].new_share

    def join(self, names: list[str], weights: list[float], into: str) -> None:
        """Give one adapter the copies of others, side by side."""
        raise NotImplementedError

    def factor(self, adapters: Sequence[str] | None = None) -> int:
        """Return how many times as wide the layer is with adapters, the active ones by default."""
        names = [n for n in (self.active_adapters if adapters is None else adapters) if n in self.growth]
        return self.keeps_old(names) + sum(self.copies(name) for name in names) if names else 1

    @property
    def n_added(self) -> int:
        """Parameters by which the wide layer is larger than the base."""
        base = self._narrow[0] if self._narrow else self.get_base_layer()
        bias = self.out_features if self.repeats_bias and base.bias is not None else 0
        return (self.factor() - 1) * (self.in_features * self.out_features + bias)

    def active_here(self) -> list[str]:
        """Return the active adapters that this layer has."""
        return [name for name in self.active_adapters if name in self.growth]

    def own_parameters(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return the adapter's weight and bias (masters may be fp32 where the base is bf16)."""
        own: Any = self.grow[name]
        return own.weight.to(dtype), None if own.bias is None else own.bias.to(dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [] if self.disable_adapters or self.merged else self.active_here()
        if names:
            return self.grown(names, x, *args, **kwargs)
        if self.merged and self.quantization_backend:  # 8 bits become fp32, whatever the model is held in
            weight: Any = self.base_layer.weight
            return F.linear(x.to(weight.dtype), weight, self.base_layer.bias).to(x.dtype)
        out: Tensor = self.base_layer(x, *args, **kwargs)
        return out

    def grown(self, names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output with adapters; other arguments are the base layer's."""
        raise NotImplementedError

    @torch.no_grad()
    def checked_wide(self, names: list[str], safe: bool) -> tuple[Tensor, Tensor | None]:
        """Return :meth:`wide`.

        Raises:
            ValueError: it is not finite, and that is asked for.
        """
        weight, bias = self.wide(names)
        if safe and not all(torch.isfinite(t).all() for t in (weight, bias) if t is not None):
            told = ", ".join(names)
            raise ValueError(f"NaNs detected in the merged weights. The adapter {told} seems to be broken")
        return weight, bias

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Let one plain, wider linear layer stand in for base and growth."""
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.growth]
        if not names:
            return
        names = [*self.merged_adapters, *names]
        self.unmerge()
        weight, bias = self.checked_wide(names, safe_merge)
        bias = None if bias is None else bias.to(weight.dtype)
        self._narrow, self.base_layer = (self.base_layer,), plain_like(self.base_layer, weight, bias)
        self.merged_adapters += names

    def unmerge(self) -> None:
        if self._narrow:
            (narrow,) = self._narrow
            like: Any = self.base_layer.weight
            self._narrow, self.base_layer = (), narrow.to(like.device if self.quantization_backend else like)
            self.merged_adapters.clear()

    def __repr__(self) -> str:
        return "grow." + super().__repr__()


class GrownColumns(GrownLinear):
    """An up-projection with k copies of its outputs (paper, section 3).

    y = [x·W | x·W_1 | … | x·W_{k-1}],   W_j = W at first.   x: (..., in) → (..., k·out)

    ``trainable="new"`` keeps W frozen and holds W_1 … W_{k-1} as one ((k-1)·out, in) parameter;
    ``trainable="columns"`` holds all k copies as one (k·out, in) parameter, so that the base weight
    stays as it was for when the adapter is disabled.

    Where a layer holds several projections (Phi-3's gate and up), the copies of the first come before those
    of the second: y = [x·G | x·G_1 | … | x·U | x·U_1 | …], which halves as the base's own output does.

    Args:
        projections: how many the layer holds, all of one size.
    """

    repeats_bias = True

    def __init__(
        self, base_layer: nn.Linear | Conv1D, adapter_name: str, config: GrowConfig, projections: int = 1
    ) -> None:
        self.projections = projections
        super().__init__(base_layer, adapter_name, config)

    def initial(self, config: GrowConfig) -> tuple[Tensor | None, Tensor | None]:
        copies = config.k if config.trainable == "columns" else config.k - 1
        base = self.get_base_layer()
        weight = self.base_weight.detach().repeat(copies, 1)
        bias = None if base.bias is None else base.bias.detach().repeat(copies)
        if config.init_columns == "zero":
            weight, bias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
        elif config.init_columns == "random" or not config.init_weights:
            weight = _random(weight, self.base_weight)
        return weight, bias

    @torch.no_grad()
    def wide(self, names: list[str]) -> tuple[Tensor, Tensor | None]:
        base = self.get_base_layer()
        weight = self.base_weight
        parts: list[tuple[Tensor, Tensor | None]] = [(weight, base.bias)] * self.keeps_old(names)
        parts += [self.own_parameters(name, weight.dtype) for name in names]
        weights = [copy for weight, _ in parts for copy in weight.split(self.out_features)]
        biases = [copy for _, bias in parts if bias is not None for copy in bias.split(self.out_features)]
        return self._side_by_side(weights, 0), self._side_by_side(biases, 0) if biases else None

    def _side_by_side(self, copies: list[Tensor], dim: int) -> Tensor:
        pieces = [copy.chunk(self.projections, dim) for copy in copies]
        return torch.cat([piece for same in zip(*pieces, strict=True) for piece in same], dim)

    @torch.no_grad()
    def join(self, names: list[str], weights: list[float], into: str) -> None:
        own = [self.own_parameters(name, self.base_weight.dtype) for name in names]
        self.grow[into] = Growth(torch.cat([w for w, _ in own]), _cat([bias for _, bias in own]))

    def grown(self, names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        old = [self.base_layer(x, *args, **kwargs)] if self.keeps_old(names) else []
        own = (self.own_parameters(name, x.dtype) for name in names)
        new = [part for w, b in own for part in copies_of_output(x, w, b, self.out_features, self.product)]
        return self._side_by_side([*old, *new], -1)


class GrownRows(GrownLinear):
    """A down-projection over k copies of its input, each scaled by 1/k (paper, section 3).

    y = (1-s)·(x_0·W + b) + Σ_j x_j·W_j + b',   W_j = s/(k-1)·W and b' = s·b at first.
    x: (..., k·in) → (..., out).  The new rows are one (out, (k-1)·in) parameter.
    s is the new copies' share of the output, (k-1)/k in the paper.

    ``trainable="columns"`` (G-Train) has no parameter here: every copy is W/k for good, so the
    mean of the inputs goes through W once.
    """

    repeats_bias = False

    def initial(self, config: GrowConfig) -> tuple[Tensor | None, Tensor | None]:
        if config.trainable == "columns":
            return None, None
        base, copies = self.get_base_layer(), config.k - 1
        bias = None if base.bias is None else base.bias.detach() * config.new_share
        weight = (self.base_weight.detach() * (config.new_share / copies)).repeat(1, copies)
        return weight if config.init_weights else _random(weight, self.base_weight), bias

    @torch.no_grad()
    def wide(self, names: list[str]) -> tuple[Tensor, Tensor | None]:
        base, share = self.get_base_layer(), self.old_share(names)
        kept = self.base_weight
        own = [self._own_rows(name, kept.dtype) for name in names]
        old = [kept * share] if self.keeps_old(names) else []
        weight = torch.cat([*old, *(weight for weight, _ in own)], dim=1)
        biases = [bias for _, bias in own if bias is not None]
        return weight, sum(biases, start=base.bias * share) if biases else None

    @torch.no_grad()
    def join(self, names: list[str], weights: list[float], into: str) -> None:
        own = [self._own_rows(name, self.base_weight.dtype) for name in names]
        scaled = [
            (factor * w, None if b is None else factor * b)
            for factor, (w, b) in zip(weights, own, strict=True)
        ]
        biases = [bias for _, bias in scaled if bias is not None]
        bias = torch.stack(biases).sum(0) if biases else None
        self.grow[into] = Growth(torch.cat([w for w, _ in scaled], dim=1), bias)

    def _own_rows(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        base, copies = self.get_base_layer(), self.growth[name].k
        if self.growth[name].trainable == "columns":
            return (self.base_weight / copies).repeat(1, copies), base.bias
        return self.own_parameters(name, dtype)

    def grown(self, names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sizes = [self.in_features] * self.keeps_old(names)
        sizes += [self.copies(name) * self.in_features for name in names]
        # Contiguous, so that the old product is the very one that the base runs: on a strided view a
        # library may take another kernel and round differently.
        parts = [part.contiguous() for part in x.split(sizes, dim=-1)]
        share = self.old_share(names)
        old = [self.base_layer(parts.pop(0), *args, **kwargs) * share] if self.keeps_old(names) else []
        outputs = [*old, *(self._output(name, part) for name, part in zip(names, parts, strict=True))]
        first, *others = outputs
        return sum(others, start=first)

    def _output(self, name: str, x: Tensor) -> Tensor:
        """The adapter's part of the output, from the copies of the input that are its own."""
        if self.growth[name].trainable == "columns":
            return self.base_layer(x.unflatten(-1, (self.growth[name].k, self.in_features)).mean(-2))
        return self.product(x, *self.own_parameters(name, x.dtype))


def _cat(tensors: list[Tensor | None]) -> Tensor | None:
    """The tensors behind one another; None where there are none."""
    found = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(found) if found else None


def _random(weight: Tensor, base: Tensor) -> Tensor:
    """Return normal numbers in the shape of ``weight``, with the standard deviation of the base's."""
    return torch.randn_like(weight) * base.detach().float().std().to(weight.dtype)
