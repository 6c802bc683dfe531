"""Grown linear layers: the base weight stays where it is, the new weights stand beside it.

Separate products, summed, are what makes k = 2 bit-exact: halving only lowers an exponent, and two
equal halves add up to the original. One concatenated product would round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gdo_cli.growth.config import GrowConfig
from gdo_cli.growth.grown import GrownLayer
from gdo_cli.growth.linear import (
    copies_of_output,
    keep_readable,
    plain_like,
    random_like,
    shape_of,
    weight_of,
    zeros_after,
)


class Growth(nn.Module):
    """What one adapter adds to a layer: a weight, and a bias if the base has one. Either may be absent."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)


class GrownLinear(GrownLayer):
    """What grown columns and rows share: a weight each, and merging into one wide layer.

    Beside a base of 4 or 8 bits stand floats: copies of the numbers that it computes with.
    """

    repeats_bias: ClassVar[bool]  # of the wide layer: one for each copy's outputs, or one for all
    base_layer: nn.Linear | Conv1D
    get_base_weight: Callable[[], Tensor]

    def __init__(self, base_layer: nn.Linear | Conv1D, adapter_name: str, config: GrowConfig) -> None:
        self.out_features, self.in_features = shape_of(base_layer)
        keep_readable(base_layer)
        super().__init__(base_layer, adapter_name, config)

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

    def initial_growth(self, config: GrowConfig) -> nn.Module:
        return Growth(*self.initial(config))

    def initial(self, config: GrowConfig) -> tuple[Tensor | None, Tensor | None]:
        """Return the new weight and bias at the start, as copies of their own."""
        raise NotImplementedError

    def wide(self, names: list[str]) -> tuple[Tensor, Tensor | None]:
        """Return the weight and bias of the one plain linear layer that equals this one."""
        raise NotImplementedError

    @property
    def n_added(self) -> int:
        bias = self.out_features if self.repeats_bias and self.narrow.bias is not None else 0
        return (self.factor() - 1) * (self.in_features * self.out_features + bias)

    def own_parameters(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return the adapter's weight and bias (masters may be fp32 where the base is bf16)."""
        own: Any = self.grow[name]
        return own.weight.to(dtype), None if own.bias is None else own.bias.to(dtype)

    def ungrown(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.merged and self.quantization_backend:  # 8 bits become fp32, whatever the model is held in
            weight: Any = self.base_layer.weight
            return F.linear(x.to(weight.dtype), weight, self.base_layer.bias).to(x.dtype)
        return super().ungrown(x, *args, **kwargs)

    def widened(self, names: list[str]) -> nn.Linear | Conv1D:
        weight, bias = self.wide(names)
        return plain_like(self.base_layer, weight, None if bias is None else bias.to(weight.dtype))

    def copies_by_parameter(self, name: str) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
        weight, bias = self.own_parameters(name, torch.float32)
        yield "weight", self.base_weight, self.split_copies(weight)
        if bias is not None:
            yield "bias", self.get_base_layer().bias, self.split_copies(bias)

    def split_copies(self, new: Tensor) -> list[Tensor]:
        """Return the copies that lie side by side in a weight or bias of an adapter."""
        raise NotImplementedError

    def set_base(self, which: str, value: Tensor) -> None:
        flipped = isinstance(self.get_base_layer(), Conv1D) and which == "weight"
        super().set_base(which, value.T.contiguous() if flipped else value)

    def is_width_of(self, stock: Any, k: int) -> bool:
        return bool(stock.weight.numel() == k * self.in_features * self.out_features)


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
            weight = random_like(weight, self.base_weight)
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

    @torch.no_grad()
    def padded(self, plain: nn.Module, k: int) -> nn.Linear | Conv1D:
        bias: Any = plain.bias
        return plain_like(
            plain,
            zeros_after(weight_of(plain), 0, k, self.projections),
            None if bias is None else zeros_after(bias, 0, k, self.projections),
        )

    def split_copies(self, new: Tensor) -> list[Tensor]:
        return list(new.split(self.out_features))

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
        return weight if config.init_weights else random_like(weight, self.base_weight), bias

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

    @torch.no_grad()
    def padded(self, plain: nn.Module, k: int) -> nn.Linear | Conv1D:
        bias: Any = plain.bias
        return plain_like(plain, zeros_after(weight_of(plain), 1, k), bias)

    def is_row(self, which: str) -> bool:
        return True

    def split_copies(self, new: Tensor) -> list[Tensor]:
        return list(new.split(self.in_features, dim=1)) if new.ndim == 2 else [new]

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
