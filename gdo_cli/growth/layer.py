"""Grown linear layers: the base weight stays where it is, the new weights stand beside it.

Separate products, summed, are what makes k = 2 bit-exact: halving only lowers an exponent, and two
equal halves add up to the original. One concatenated product would round differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from gdo_cli.growth.config import GrowConfig


class GrownLinear(nn.Module, BaseTunerLayer):
    """What grown columns and rows share: adapters by name, and merging into one wide layer."""

    adapter_layer_names = ("grow_weight", "grow_bias")
    other_param_names = ("growth",)
    base_layer: nn.Linear
    growth: dict[str, GrowConfig]
    active_adapters: list[str]
    get_base_layer: Callable[[], nn.Linear]
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Linear, adapter_name: str, config: GrowConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.growth = {}
        self.grow_weight = nn.ParameterDict()
        self.grow_bias = nn.ParameterDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._narrow_layer: nn.Linear | None = None  # the base while a wide layer stands in for it
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: GrowConfig) -> None:
        """Add an adapter that computes what the base computes.

        Raises:
            ValueError: another one is merged.
        """
        if self.merged:
            raise ValueError(f"adapter {adapter_name!r}: unmerge before adding another one")
        self.growth[adapter_name] = config
        weight, bias = self.initial(config)
        if weight is not None:
            self.grow_weight[adapter_name] = nn.Parameter(weight)
        if bias is not None:
            self.grow_bias[adapter_name] = nn.Parameter(bias)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def initial(self, config: GrowConfig) -> tuple[Tensor | None, Tensor | None]:
        """Return the new weight and bias at the start, as copies of their own."""
        raise NotImplementedError

    def wide(self, adapter_name: str) -> tuple[Tensor, Tensor | None]:
        """Return the weight and bias of the one plain linear layer that equals this one."""
        raise NotImplementedError

    @property
    def n_added(self) -> int:
        """Parameters by which the wide layer is larger than the base (of one active adapter)."""
        name = self.active_adapters[0]
        if name not in self.growth:
            return 0
        weight, bias = self.wide_shape(self.growth[name].k)
        base = self.get_base_layer()
        return weight - base.weight.numel() + (0 if base.bias is None else bias - base.bias.numel())

    def wide_shape(self, k: int) -> tuple[int, int]:
        """Return the elements of the wide weight and of the wide bias."""
        raise NotImplementedError

    def active_growth(self) -> str | None:
        """Return the adapter to apply now; None where the base layer is to answer alone."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return None
        if self.merged:
            return None
        here = [name for name in self.active_adapters if name in self.growth]
        if len(here) > 1:
            raise ValueError(f"grown layers apply one adapter at a time, not {', '.join(here)}")
        return here[0] if here else None

    def own_parameters(self, x: Tensor, name: str) -> tuple[Tensor, Tensor | None]:
        """Return the adapter's weight and bias in the dtype of x (masters may be fp32 under bf16)."""
        bias = self.grow_bias[name].to(x.dtype) if name in self.grow_bias else None
        return self.grow_weight[name].to(x.dtype), bias

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Let one plain, wider linear layer stand in for base and growth."""
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.growth]
        if not names:
            return
        if len(names) > 1 or self.merged:
            raise ValueError("grown layers merge one adapter at a time; unmerge first")
        weight, bias = self.wide(names[0])
        if safe_merge and not torch.isfinite(weight).all():
            raise ValueError(f"adapter {names[0]!r} holds NaN or infinite weights")
        self._narrow_layer, self.base_layer = self.base_layer, plain_linear(weight, bias)
        self.merged_adapters.append(names[0])

    def unmerge(self) -> None:
        if self._narrow_layer is not None:
            self.base_layer, self._narrow_layer = self._narrow_layer, None
            self.merged_adapters.clear()

    def __repr__(self) -> str:
        return "grow." + super().__repr__()


class GrownColumns(GrownLinear):
    """An up-projection with k copies of its outputs (paper, section 3).

    y = [x·W | x·W_1 | … | x·W_{k-1}],   W_j = W at first.   x: (..., in) → (..., k·out)

    ``trainable="new"`` keeps W frozen and holds W_1 … W_{k-1} as one ((k-1)·out, in) parameter;
    ``trainable="columns"`` holds all k copies as one (k·out, in) parameter, so that the base weight
    stays as it was for when the adapter is disabled.
    """

    def initial(self, config: GrowConfig) -> tuple[Tensor | None, Tensor | None]:
        copies = config.k if config.trainable == "columns" else config.k - 1
        base = self.get_base_layer()
        weight = base.weight.detach().repeat(copies, 1)
        bias = None if base.bias is None else base.bias.detach().repeat(copies)
        if config.init_columns == "zero":
            weight, bias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
        elif config.init_columns == "random":
            weight = torch.randn_like(weight) * base.weight.detach().float().std().to(weight.dtype)
        return weight, bias

    def wide_shape(self, k: int) -> tuple[int, int]:
        return k * self.in_features * self.out_features, k * self.out_features

    def wide(self, adapter_name: str) -> tuple[Tensor, Tensor | None]:
        base = self.get_base_layer()
        weight = self.grow_weight[adapter_name].detach().to(base.weight.dtype)
        bias = None
        if base.bias is not None:
            bias = self.grow_bias[adapter_name].detach().to(base.weight.dtype)
        if self.growth[adapter_name].trainable == "columns":
            return weight.clone(), None if bias is None else bias.clone()
        return (
            torch.cat([base.weight.detach(), weight]),
            None if bias is None else torch.cat([base.bias.detach(), bias]),
        )

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self.active_growth()
        if name is None:
            out: Tensor = self.base_layer(x, *args, **kwargs)
            return out
        # A product per copy: each has the base product's shape, so it runs the same kernel and
        # rounds the same way.
        weight, bias = self.own_parameters(x, name)
        weights = weight.split(self.out_features)
        biases = [None] * len(weights) if bias is None else bias.split(self.out_features)
        new = [F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)]
        if self.growth[name].trainable == "columns":
            return torch.cat(new, dim=-1)
        return torch.cat([self.base_layer(x, *args, **kwargs), *new], dim=-1)


class GrownRows(GrownLinear):
    """A down-projection over k copies of its input, each scaled by 1/k (paper, section 3).

    y = (1-s)·(x_0·W + b) + Σ_j x_j·W_j + b',   W_j = s/(k-1)·W and b' = s·b at first.
    x: (..., k·in) → (..., out).  The new rows are one (out, (k-1)·in) parameter.
    s is the new copies' share of the output, (k-1)/k in the paper.

    ``trainable="columns"`` (G-Train) has no parameter here: every copy is W/k for good, so the
    mean of the inputs goes through W once.
    """

    def initial(self, config: GrowConfig) -> tuple[Tensor | None, Tensor | None]:
        if config.trainable == "columns":
            return None, None
        base, copies = self.get_base_layer(), config.k - 1
        bias = None if base.bias is None else base.bias.detach() * config.new_share
        return (base.weight.detach() * (config.new_share / copies)).repeat(1, copies), bias

    def wide_shape(self, k: int) -> tuple[int, int]:
        return k * self.in_features * self.out_features, self.out_features

    def wide(self, adapter_name: str) -> tuple[Tensor, Tensor | None]:
        base, growth = self.get_base_layer(), self.growth[adapter_name]
        k, old_share = growth.k, 1 - growth.new_share
        old = base.weight.detach() * old_share
        if growth.trainable == "columns":
            return old.repeat(1, k), None if base.bias is None else base.bias.detach().clone()
        weight = self.grow_weight[adapter_name].detach().to(old.dtype)
        bias = None
        if base.bias is not None:
            bias = base.bias.detach() * old_share + self.grow_bias[adapter_name].detach().to(old.dtype)
        return torch.cat([old, weight], dim=1), bias

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self.active_growth()
        if name is None:
            out: Tensor = self.base_layer(x, *args, **kwargs)
            return out
        k = self.growth[name].k
        if self.growth[name].trainable == "columns":
            mean: Tensor = self.base_layer(x.unflatten(-1, (k, self.in_features)).mean(-2))
            return mean
        # Contiguous, so that the old product is the very one that the base runs: on a strided view a
        # library may take another kernel and round differently.
        parts = x.split([self.in_features, (k - 1) * self.in_features], dim=-1)
        old_x, new_x = (part.contiguous() for part in parts)
        old = self.base_layer(old_x, *args, **kwargs) * (1 - self.growth[name].new_share)
        grown: Tensor = old + F.linear(new_x, *self.own_parameters(x, name))
        return grown


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a frozen nn.Linear around the given tensors, without allocating others."""
    out_features, in_features = weight.shape
    with torch.device("meta"):
        linear = nn.Linear(in_features, out_features, bias=bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
