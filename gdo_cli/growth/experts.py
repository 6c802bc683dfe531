"""Grown experts: all that a module holds, with new experts beside them that are asked for the same tokens.

Experts whose weights are all scaled by one half give exactly half of the output, in whatever kernel, so
the module's own forward is run once for each copy, with that copy's parameters, and the outputs are added.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gdo_cli.growth.config import GrowConfig
from gdo_cli.growth.grown import GrownLayer
from gdo_cli.growth.linear import random_like, zeros_after
from gdo_cli.lm.experts import Experts, experts_of

_WIDTHS = ("intermediate_dim", "intermediate_size", "expert_dim")  # what modules call an expert's


class ExpertsGrowth(nn.Module):
    """What one adapter adds: parameters called as the base's, (copies, experts, …)."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))


class GrownExperts(GrownLayer):
    """Experts with k copies of their columns, and rows that read all of them (paper, section 3).

    y = (1-s)·f(x; G, D) + Σ_j f(x; G_j, D_j),   G_j = G and D_j = s/(k-1)·D at first, biases likewise;
    f is the base with its router's choice, G its columns and D its rows.
    ``trainable="columns"`` (G-Train) has no rows of its own: y = 1/k·Σ_j f(x; G_j, D).
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: GrowConfig) -> None:
        held = experts_of(base_layer)
        assert held is not None
        self.held: Experts = held
        super().__init__(base_layer, adapter_name, config)

    def is_row(self, name: str) -> bool:
        """Return whether a parameter belongs to the down-projections."""
        return name in (self.held.row, f"{self.held.row}_bias")

    def base_parameters(self) -> dict[str, Tensor]:
        """Return what the base holds, by name."""
        return {name: p.detach() for name, p in self.narrow.named_parameters(recurse=False)}

    def initial_growth(self, config: GrowConfig) -> nn.Module:
        only_columns = config.trainable == "columns"
        copies = config.k if only_columns else config.k - 1
        found = {}
        for name, base in self.base_parameters().items():
            if self.is_row(name):
                if only_columns:
                    continue
                value = base * (config.new_share / copies)
            else:
                value = torch.zeros_like(base) if config.init_columns == "zero" else base
            repeated = value.repeat(copies, *[1] * base.ndim)
            draws = (config.init_columns == "random" and not self.is_row(name)) or not config.init_weights
            is_weight = not name.endswith("_bias")
            found[name] = random_like(repeated, base) if draws and is_weight else repeated
        return ExpertsGrowth(found)

    def own(self, name: str) -> dict[str, Tensor]:
        """Return an adapter's parameters in the base's dtype, (copies, experts, …), rows included."""
        growth: Any = self.grow[name]
        found = {}
        for which, base in self.base_parameters().items():
            if (parameter := getattr(growth, which, None)) is not None:
                found[which] = parameter.to(base.dtype)
            else:  # G-Train's rows
                found[which] = (base / self.copies(name)).expand(self.copies(name), *base.shape)
        return found

    def grown(self, names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        share = self.old_share(names)
        outputs = [self.base_layer(x, *args, **kwargs) * share] if self.keeps_old(names) else []
        for name in names:
            dtype = next(self.base_layer.parameters()).dtype
            own = {which: p.to(dtype) for which, p in self.grow[name].named_parameters()}
            scale = 1 / self.copies(name) if self.growth[name].trainable == "columns" else 1.0
            for index in range(self.copies(name)):
                copied = {which: p[index] for which, p in own.items()}
                out = functional_call(self.base_layer, copied, (x, *args), kwargs)
                outputs.append(out if scale == 1 else out * scale)
        first, *others = outputs
        return sum(others, start=first)

    @torch.no_grad()
    def widened(self, names: list[str]) -> nn.Module:
        share = self.old_share(names)
        copies: dict[str, list[Tensor]] = {}
        for which, base in self.base_parameters().items():
            old = [base * share if self.is_row(which) else base] if self.keeps_old(names) else []
            copies[which] = [*old, *(one for name in names for one in self.own(name)[which])]
        return self._plain({which: self._joined(which, found) for which, found in copies.items()})

    def _joined(self, which: str, copies: list[Tensor]) -> Tensor:
        """The copies of a parameter as the one of wider experts."""
        if which == f"{self.held.row}_bias":
            return torch.stack(copies).sum(0)
        axis, projections = self._axis(which)
        pieces = [one.chunk(projections, axis) for one in copies]
        return torch.cat([piece for same in zip(*pieces, strict=True) for piece in same], axis)

    def _axis(self, which: str) -> tuple[int, int]:
        """Along which axis a parameter's units lie, and how many projections behind one another."""
        if self.is_row(which):
            return (1 if self.held.flipped else 2), 1
        return (2 if self.held.flipped else 1) if which == self.held.column else 1, self.held.projections

    def _plain(self, parameters: dict[str, Tensor], like: Any = None) -> nn.Module:
        """A frozen module of the base's kind around other parameters."""
        plain = copy.copy(self.narrow if like is None else like)
        plain.__dict__["_parameters"] = {
            which: nn.Parameter(value, requires_grad=False) for which, value in parameters.items()
        }
        found = experts_of(plain)
        assert found is not None
        for name in _WIDTHS:
            if getattr(plain, name, None) == self.held.width:
                setattr(plain, name, found.width)
        return plain

    @torch.no_grad()
    def padded(self, plain: nn.Module, k: int) -> nn.Module:
        found = {}
        for which, value in plain.named_parameters(recurse=False):
            stays = which == f"{self.held.row}_bias"
            axis, projections = self._axis(which)
            found[which] = value if stays else zeros_after(value, axis, k, projections)
        return self._plain(found, plain)

    def is_width_of(self, stock: Any, k: int) -> bool:
        found = experts_of(stock)
        return found is not None and found.width == k * self.held.width

    @property
    def n_added(self) -> int:
        sizes = (p.numel() for which, p in self.base_parameters().items() if which != f"{self.held.row}_bias")
        return (self.factor() - 1) * sum(sizes)

    @torch.no_grad()
    def join(self, names: list[str], weights: list[float], into: str) -> None:
        found = {}
        for which in self.base_parameters():
            factors = weights if self.is_row(which) else [1.0] * len(names)
            parts = [self.own(name)[which] * f for name, f in zip(names, factors, strict=True)]
            found[which] = torch.cat(parts)
        self.grow[into] = ExpertsGrowth(found)

    def copies_by_parameter(self, name: str) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
        growth: Any = self.grow[name]
        for which, base in self.base_parameters().items():
            if (parameter := getattr(growth, which, None)) is not None:
                yield which, base, list(parameter.float())
