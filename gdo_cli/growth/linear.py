"""Linear layers of either kind: torch's, and GPT-2's Conv1D, which holds its weight the other way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def copies_of_output(
    x: Tensor, weight: Tensor, bias: Tensor | None, size: int, product: Callable[..., Tensor] = F.linear
) -> list[Tensor]:
    """Return a product for each copy, (..., size), of weight and bias that lie one behind the other.

    Each has the base product's shape, so it runs the same kernel and rounds the same way.
    """
    weights = weight.split(size)
    biases = [None] * len(weights) if bias is None else bias.split(size)
    return [product(x, w, b) for w, b in zip(weights, biases, strict=True)]


def shape_of(layer: Any) -> tuple[int, int]:
    """Return how many numbers a linear layer gives and how many it takes."""
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight of a linear layer, (out, in), as a view; Conv1D holds it the other way round."""
    weight: Any = layer.weight
    found: Tensor = weight.T if isinstance(layer, Conv1D) else weight
    return found


def keep_readable(layer: nn.Module) -> None:
    """Keep bitsandbytes from repacking a 4-bit layer, which it does at its first evaluation on some CPUs.

    On those with AVX512-BF16, in place: PEFT then reads other numbers, and the way back is not exact.

    Raises:
        ValueError: it has happened.
    """
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False):
        raise ValueError(
            "bitsandbytes repacked this 4-bit base for the CPU when it was first evaluated, so its weights "
            "can no longer be read; load the base again and grow it before it is evaluated"
        )
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def plain_like(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Linear | Conv1D:
    """Return a frozen layer of the same kind around a weight, (out, in), without allocating others."""
    if not isinstance(layer, Conv1D):
        return plain_linear(weight, bias)
    assert bias is not None
    with torch.device("meta"):
        plain = Conv1D(*weight.shape)
    plain.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
    plain.bias = nn.Parameter(bias, requires_grad=False)
    return plain


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a frozen nn.Linear around the given tensors, without allocating others."""
    out_features, in_features = weight.shape
    linear = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def zeros_after(tensor: Tensor, dim: int, k: int, projections: int = 1) -> Tensor:
    """Return the tensor, or each of the projections in it, with k - 1 times as many zeros behind."""
    pieces = tensor.detach().chunk(projections, dim)
    zeros = pieces[0].new_zeros([n * (k - 1) if d == dim else n for d, n in enumerate(pieces[0].shape)])
    return torch.cat([part for piece in pieces for part in (piece, zeros)], dim=dim)


def random_like(weight: Tensor, base: Tensor) -> Tensor:
    """Return normal numbers in the shape of ``weight``, with the standard deviation of the base's.

    They are drawn on the CPU: a seed gives the same ones on every device.
    """
    drawn = torch.randn_like(weight, device="meta" if weight.is_meta else "cpu").to(weight.device)
    return drawn * base.detach().float().std().to(weight.dtype)
