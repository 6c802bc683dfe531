"""Attention heads k times as wide (paper, C.3, "attention head dimension").

The copies of a head's q and k must turn with their original's rotary frequency: RoPE pairs element i
with element i + d/2, so each half of a head is repeated in place, [x₁ x₂] → [x₁ x₁ x₂ x₂], and so are
cosine and sine. The k-fold score is divided by k, q and k norms repeat their weights (the mean square
of a repeated vector is that of the vector), and the output projection reads every copy at 1/k. Then
the function is the base's up to rounding.

Shapes: H heads, d their width, k copies.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdo_cli.growth.linear import copies_of_output, plain_linear


class HeadColumns(nn.Module):
    """q, k or v with k copies of every head, interleaved by halves: (..., in) → (..., H·k·d).

    The new parameters are not called ``grow_…``: by that prefix PEFT knows, and saves, its own.
    """

    def __init__(self, base: nn.Linear, head_dim: int, k: int) -> None:
        super().__init__()
        self.base_layer, self.head_dim, self.k = base, head_dim, k
        self.wider_weight = nn.Parameter(_master(base.weight).repeat(k - 1, 1))
        bias = None if base.bias is None else _master(base.bias).repeat(k - 1)
        self.wider_bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.wider_bias is None else self.wider_bias.to(x.dtype)
        new = copies_of_output(x, self.wider_weight.to(x.dtype), bias, self.base_layer.out_features)
        return interleave([self.base_layer(x), *new], self.head_dim)

    def plain(self) -> nn.Linear:
        """Return the one linear layer that equals this one."""
        base = self.base_layer
        weight = self._side_by_side(base.weight.T, self.wider_weight.T).T.contiguous()
        bias = None if self.wider_bias is None else self._side_by_side(base.bias, self.wider_bias)
        return plain_linear(weight, bias)

    def _side_by_side(self, old: Tensor, new: Tensor) -> Tensor:
        copies = new.detach().to(old).split(old.shape[-1], dim=-1)
        return interleave([old.detach(), *copies], self.head_dim)


class HeadRows(nn.Module):
    """The output projection over interleaved copies, each at 1/k: (..., H·k·d) → (..., out)."""

    def __init__(self, base: nn.Linear, head_dim: int, k: int) -> None:
        super().__init__()
        self.base_layer, self.head_dim, self.k = base, head_dim, k
        self.wider_weight = nn.Parameter((_master(base.weight) / k).repeat(1, k - 1))

    def forward(self, x: Tensor) -> Tensor:
        copies = x.unflatten(-1, (-1, 2, self.k, self.head_dim // 2)).unbind(-2)
        old, *new = (c.flatten(-3) for c in copies)
        out = F.linear(old, self.base_layer.weight) / self.k
        out = out + F.linear(torch.cat(new, dim=-1), self.wider_weight.to(x.dtype))
        bias = self.base_layer.bias  # added once, outside the 1/k
        return out if bias is None else out + bias

    def plain(self) -> nn.Linear:
        """Return the one linear layer that equals this one."""
        base = self.base_layer
        new = self.wider_weight.detach().to(base.weight).split(base.in_features, dim=1)
        weight = interleave([base.weight.detach() / self.k, *new], self.head_dim)
        return plain_linear(weight, None if base.bias is None else base.bias.detach())


def interleave(copies: Sequence[Tensor], head_dim: int) -> Tensor:
    """Return the copies of every head side by side, by halves: k of (..., H·d) → (..., H·k·d)."""
    halves = [x.unflatten(-1, (-1, 2, head_dim // 2)) for x in copies]
    return torch.stack(halves, dim=-2).flatten(-4)  # (..., H, 2, k, d/2) → (..., H·k·d)


def _master(weight: Tensor) -> Tensor:
    """A copy to train, in fp32 at least."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)


def widen_heads(attention: Any, k: int) -> list[nn.Parameter]:
    """Make one attention module's heads k times as wide, in place; returns the new parameters.

    Raises:
        ValueError: the module is not of the kind that can be widened so (rotary, with q/k/v/o).
    """
    needed = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "scaling")
    if missing := [name for name in needed if not hasattr(attention, name)]:
        raise ValueError(f"{type(attention).__name__} has no {missing[0]}: its heads cannot be widened")
    head_dim = attention.head_dim
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, HeadColumns(getattr(attention, name), head_dim, k))
    attention.o_proj = HeadRows(attention.o_proj, head_dim, k)
    for name in ("q_norm", "k_norm"):
        if hasattr(attention, name):
            setattr(attention, name, _repeated_norm(getattr(attention, name), head_dim, k))
    attention.head_dim, attention.scaling = head_dim * k, attention.scaling / k
    attention.register_forward_pre_hook(partial(_repeat_rotary, k), with_kwargs=True)
    new = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return [p for module in new for name, p in module.named_parameters() if name.startswith("wider_")]


def _repeated_norm(norm: nn.Module, head_dim: int, k: int) -> nn.Module:
    """The norm of a k-fold head: its weights repeated by halves."""
    wide = copy.deepcopy(norm)
    weight = norm.get_parameter("weight").detach()
    if weight.shape != (head_dim,):
        raise ValueError(f"{type(norm).__name__} spans all heads at once: they cannot be widened")
    wide.weight = nn.Parameter(repeat_halves(weight, k), requires_grad=False)
    return wide


def repeat_halves(x: Tensor, k: int) -> Tensor:
    """[x₁ x₂] → [x₁ … x₁ x₂ … x₂], each half k times: (..., d) → (..., k·d)."""
    return x.unflatten(-1, (2, -1)).repeat_interleave(k, dim=-2).flatten(-2)


def _repeat_rotary(k: int, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A hook that gives the attention module cosines and sines as wide as its heads."""
    wide = tuple(repeat_halves(x, k) for x in kwargs["position_embeddings"])
    return args, kwargs | {"position_embeddings": wide}
