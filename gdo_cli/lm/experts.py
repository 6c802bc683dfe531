"""Experts of which transformers holds the weights of all in one: parameters of three axes in one module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Experts:
    """How a module holds its experts, (experts, out, in).

    Attributes:
        column: the parameter that holds gate and up, or up alone; its bias is called ``…_bias``.
        row: likewise the down-projections.
        projections: how many lie behind one another in the column: gate and up, or one (gpt-oss mixes them).
        flipped: (experts, in, out) instead, as in gpt-oss.
        width: of one expert.
    """

    column: str
    row: str
    projections: int
    flipped: bool
    width: int


def experts_of(module: nn.Module) -> Experts | None:
    """Return how a module holds experts; None where it is not one that does so in transformers' way."""
    told: Any = module
    if not hasattr(told, "is_transposed") or getattr(told, "has_post_expert_norm", False):
        return None
    column, row = "gate_up_proj" if told.has_gate else "up_proj", "down_proj"
    found = dict(module.named_parameters(recurse=False))
    known = {column, row, f"{column}_bias", f"{row}_bias"}
    if not {column, row} <= {*found} <= known or not all(_is_float(p) for p in found.values()):
        return None
    behind = told.has_gate and told.is_concatenated
    width = found[row].shape[1 if told.is_transposed else 2]
    return Experts(column, row, 2 if behind else 1, told.is_transposed, width)


def is_experts(name: str) -> bool:
    """Return whether a module's name says that it holds experts, in whatever way."""
    return name.rpartition(".")[2] == "experts"


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype in _FLOATS
