"""Grown linear layers: the base weight stays where it is, the new weights stand beside it.

Separate products, summed, are what makes k = 2 bit-exact: halving only lowers an exponent, and two
equal halves add up to the original. One concatenated product would round differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from gdo_cli.growth.config import GrowConfig


class GrownLinear(nn.Module, BaseTunerLayer):
    """What grown columns and rows share: adapters by name, and merging into one wide layer."""

    adapter_layer_names = ("grow_weight", "grow_bias")
    other_param_names = ("growth",)
    repeats_bias: ClassVar[bool]  # of the wide layer: one for each copy's outputs, or one for all
    base_layer: nn.Linear
    active_adapters: list[str]
    get_base_layer: Callable[[], nn.Linear]
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Linear, adapter_name: str, config: GrowConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.growth: dict[str, GrowConfig] = {}
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
        growth, base = self.growth.get(self.active_adapters[0]), self.get_base_layer()
        bias = base.out_features if self.repeats_bias and base.bias is not None else 0
        return (growth.k - 1) * (base.weight.numel() + bias) if growth else 0

    def active_growth(self) -> str | None:
        """Return the adapter to apply now; None where the base layer is to answer alone."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return None
        here = [name for name in self.active_adapters if name in self.growth]
        if len(here) > 1:
            raise ValueError(f"grown layers apply one adapter at a time, not {', '.join(here)}")
        return here[0] if here else None

    def own_parameters(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return the adapter's weight and bias (masters may be fp32 where the base is bf16)."""
        bias = self.grow_bias[name].to(dtype) if name in self.grow_bias else None
        return self.grow_weight[name].to(dtype), bias

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self.active_growth()
        out: Tensor = (
            self.base_layer(x, *args, **kwargs) if name is None else self.grown(name, x, *args, **kwargs)
        )
        return out

    def grown(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output with an adapter; other arguments are the base layer's."""
        raise NotImplementedError

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

    repeats_bias = True

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

    @torch.no_grad()
    def wide(self, adapter_name: str) -> tuple[Tensor, Tensor | None]:
        base = self.get_base_layer()
        weight, bias = self.own_parameters(adapter_name, base.weight.dtype)
        if self.growth[adapter_name].trainable == "columns":
            return weight.clone(), None if bias is None else bias.clone()
        return torch.cat([base.weight, weight]), None if bias is None else torch.cat([base.bias, bias])

    def grown(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        new = copies_of_output(x, *self.own_parameters(name, x.dtype), self.out_features)
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

    repeats_bias = False

    def initial(self, config: GrowConfig) -> tuple[Tensor | None, Tensor | None]:
        if config.trainable == "columns":
            return None, None
        base, copies = self.get_base_layer(), config.k - 1
        bias = None if base.bias is None else base.bias.detach() * config.new_share
        return (base.weight.detach() * (config.new_share / copies)).repeat(1, copies), bias

    @torch.no_grad()
    def wide(self, adapter_name: str) -> tuple[Tensor, Tensor | None]:
        base, growth = self.get_base_layer(), self.growth[adapter_name]
        old_share = 1 - growth.new_share
        old = base.weight * old_share
        if growth.trainable == "columns":
            return old.repeat(1, growth.k), None if base.bias is None else base.bias.clone()
        weight, bias = self.own_parameters(adapter_name, old.dtype)
        return torch.cat([old, weight], dim=1), None if bias is None else base.bias * old_share + bias

    def grown(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        k = self.growth[name].k
        if self.growth[name].trainable == "columns":
            return self.base_layer(x.unflatten(-1, (k, self.in_features)).mean(-2))
        # Contiguous, so that the old product is the very one that the base runs: on a strided view a
        # library may take another kernel and round differently.
        parts = x.split([self.in_features, (k - 1) * self.in_features], dim=-1)
        old_x, new_x = (part.contiguous() for part in parts)
        old = self.base_layer(old_x, *args, **kwargs) * (1 - self.growth[name].new_share)
        return old + F.linear(new_x, *self.own_parameters(name, x.dtype))


def copies_of_output(x: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> list[Tensor]:
    """Return a product for each copy, (..., size), of weight and bias that lie one behind the other.

    Each has the base product's shape, so it runs the same kernel and rounds the same way.
    """
    weights = weight.split(size)
    biases = [None] * len(weights) if bias is None else bias.split(size)
    return [F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)]


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a frozen nn.Linear around the given tensors, without allocating others."""
    out_features, in_features = weight.shape
    linear = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear
