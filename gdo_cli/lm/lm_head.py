"""The two ends of a model, embedding and head, which often share one weight: a small model's largest.

A gradient of Gemma 3 270M's vocabulary takes 671 MB. Made anew for each product and each step, as
autograd does, it costs more than the step's arithmetic: a CPU's system clears every fresh page.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

PIECE = 4096  # tokens of the vocabulary whose logits are made at a time, where all are too many


def look_up_in_fp32(embedding: nn.Embedding) -> None:
    """Give an embedding that is held in low precision the output of one held in fp32.

    What a model does to a row (Gemma scales it by √D) is then not rounded to the weight's precision.
    """
    embedding.forward = MethodType(_look_up, embedding)  # type: ignore[method-assign]


def _look_up(embedding: nn.Embedding, ids: Tensor) -> Tensor:
    if embedding.weight.dtype == torch.float32:
        return type(embedding).forward(embedding, ids)
    # The embedding itself, on a table of the rows asked for; a padding row must exist in any table.
    spare = ids.new_zeros((embedding.padding_idx or 0) + 1)
    table = embedding.weight[torch.cat([ids.flatten(), spare])].float()
    places = torch.arange(ids.numel(), device=ids.device).view(ids.shape)
    return functional_call(embedding, {"weight": table}, (places,))


class Head:
    """The output projection in the compute dtype: its weight cast once, its gradient kept in place.

    A head that is frozen and held in the compute dtype costs nothing here. After a change that autograd
    does not count (a fused optimizer's step is one), :meth:`forget` has to be called.
    """

    def __init__(self, compute_dtype: torch.dtype) -> None:
        self.compute_dtype = compute_dtype
        self._copy: Tensor | None = None
        self._copied: tuple[int, int] | None = None  # which weight the copy is of, in which version
        self._gradient: Tensor | None = None

    def __call__(self, hidden_ND: Tensor, head: nn.Linear) -> Tensor:
        """Logits in the compute dtype, (N, V)."""
        hidden_ND = hidden_ND.to(self.compute_dtype)
        bias = None if head.bias is None else head.bias.to(self.compute_dtype)
        weight_VD = self.weight(head.weight)
        if head.weight.requires_grad and torch.is_grad_enabled():
            if not self._keeps_gradient(head):
                return F.linear(hidden_ND, head.weight.to(self.compute_dtype), bias)
            return _Product.apply(hidden_ND, head.weight, weight_VD, self)  # type: ignore[no-untyped-call]
        return F.linear(hidden_ND, weight_VD, bias)

    def in_pieces(self, hidden_ND: Tensor, head: nn.Linear) -> Iterator[tuple[int, Tensor]]:
        """Yield logits of PIECE tokens of the vocabulary after another, each with its first token, (N, P)."""
        for start, part_NP in _pieces(hidden_ND.to(self.compute_dtype), self.weight(head.weight)):
            if head.bias is not None:
                part_NP += head.bias[start : start + part_NP.shape[1]].to(self.compute_dtype)
            yield start, part_NP

    def cross_entropy(
        self, hidden_ND: Tensor, targets_N: Tensor, head: nn.Linear, weights_N: Tensor | None = None
    ) -> Tensor:
        """Return the summed cross-entropy, in nats, without ever holding all logits; where
        :meth:`sums_in_pieces`.

        Args:
            weights_N: how much each target counts; no gradient flows through them.
        """
        given = (hidden_ND.to(self.compute_dtype), head.weight, targets_N, self, weights_N)
        return _CrossEntropy.apply(*given)  # type: ignore[no-untyped-call]

    def sums_in_pieces(self, head: nn.Linear) -> bool:
        """Return whether :meth:`cross_entropy` serves this head: on a CPU, where pieces stay in the cache."""
        if head.weight.requires_grad:
            return self._keeps_gradient(head)
        return head.weight.device.type == "cpu" and _alone() and head.bias is None

    def weight(self, weight_VD: Tensor) -> Tensor:
        """Return the weight in the compute dtype, without gradient; cast again only when it has changed."""
        if weight_VD.dtype == self.compute_dtype:
            return weight_VD.detach() if weight_VD.requires_grad else weight_VD
        if self._copy is None or self._copy.device != weight_VD.device:
            self._copy = torch.empty_like(weight_VD, dtype=self.compute_dtype)
            self.forget()
        if self._copied != (id(weight_VD), weight_VD._version):
            self._copy.copy_(weight_VD.detach())
            self._copied = id(weight_VD), weight_VD._version
        return self._copy

    def forget(self) -> None:
        """The weight has changed."""
        self._copied = None

    def expect(self, embedding: nn.Embedding, head: nn.Linear) -> None:
        """Let an embedding that shares the head's weight give the gradient of its few rows alone, which
        is then added to the head's."""
        shared = embedding.weight is head.weight and head.weight.requires_grad
        embedding.sparse = shared and self._keeps_gradient(head)

    def _keeps_gradient(self, head: nn.Linear) -> bool:
        """Not on a GPU, whose allocator gives the same memory again, nor where others reduce gradients."""
        weight = head.weight
        plain = weight.device.type == "cpu" and weight.is_leaf and weight.dtype == torch.float32
        return _alone() and plain and head.bias is None

    def gradient(self, weight_VD: Tensor) -> Tensor:
        """Return the weight's gradient: what it is now, or the kept memory, set to zero."""
        if weight_VD.grad is None:
            if self._gradient is None:
                self._gradient = torch.empty_like(weight_VD)
            weight_VD.grad = self._gradient.zero_()
        return weight_VD.grad


def _alone() -> bool:
    return not torch.distributed.is_available() or not torch.distributed.is_initialized()


def read_pieces(pieces: Iterator[tuple[int, Tensor]], targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each target's logit, the log of its softmax's sum, and the likeliest token, (N,) all three.

    The vocabulary comes in pieces that stay in the processor's cache, with the sum of the softmax
    carried on from piece to piece (Milakov & Gimelshein, 2018).

    Args:
        pieces: logits in fp32, which are overwritten, with the first token of each piece.
    """
    highest_N = torch.full_like(targets_N, -torch.inf, dtype=torch.float32)
    sum_N, at_target_N = torch.zeros_like(highest_N), torch.zeros_like(highest_N)
    likeliest_N = torch.zeros_like(targets_N)
    for start, logits_NP in pieces:
        top_N = logits_NP.amax(-1)
        higher_N = top_N > highest_N  # few are, after the first pieces; argmax is slow
        likeliest_N[higher_N] = logits_NP[higher_N].argmax(-1) + start
        here_N = (targets_N - start).clamp(0, logits_NP.shape[1] - 1)
        found_N = logits_NP.gather(1, here_N[:, None])[:, 0]
        at_target_N = torch.where(here_N == targets_N - start, found_N, at_target_N)
        before_N, highest_N = highest_N, torch.maximum(highest_N, top_N)
        sum_N *= (before_N - highest_N).exp()
        sum_N += logits_NP.sub_(highest_N[:, None]).exp_().sum(-1)
    return at_target_N, highest_N + sum_N.log(), likeliest_N


class _CrossEntropy(torch.autograd.Function):
    """L = Σ log Σ exp(x·Wᵀ) − (x·Wᵀ)[target], whose backward pass makes the logits again:
    ∂L/∂x = (softmax − onehot)·W and ∂L/∂W = (softmax − onehot)ᵀ·x, a piece of W at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        head: Head,
        weights_N: Tensor | None,
    ) -> Tensor:
        pieces = ((start, part.float()) for start, part in _pieces(hidden_ND, head.weight(weight_VD)))
        at_target_N, log_sum_N, _ = read_pieces(pieces, targets_N)
        ctx.save_for_backward(hidden_ND, head.weight(weight_VD), targets_N, log_sum_N)
        ctx.weight_VD, ctx.head, ctx.weights_N = weight_VD, head, weights_N
        loss_N = log_sum_N - at_target_N
        return (loss_N if weights_N is None else loss_N * weights_N).sum()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None, None]:
        if ctx.weights_N is not None:
            scale = scale * ctx.weights_N[:, None]
        hidden_ND, low_VD, targets_N, log_sum_N = ctx.saved_tensors
        into_VD = ctx.head.gradient(ctx.weight_VD) if ctx.weight_VD.requires_grad else None
        gradient_ND = torch.zeros_like(hidden_ND, dtype=torch.float32)
        for start, part_NP in _pieces(hidden_ND, low_VD):
            change_NP = (part_NP.float() - log_sum_N[:, None]).exp_()
            inside_N = ((targets_N >= start) & (targets_N < start + part_NP.shape[1])).nonzero()[:, 0]
            change_NP[inside_N, targets_N[inside_N] - start] -= 1
            change_NP = change_NP.mul_(scale).to(part_NP.dtype)
            gradient_ND += change_NP @ low_VD[start : start + part_NP.shape[1]]
            if into_VD is not None:
                piece_PD = into_VD[start : start + part_NP.shape[1]]
                piece_PD.addmm_(change_NP.T.float(), hidden_ND.float())
        return gradient_ND.to(hidden_ND.dtype), None, None, None, None


def _pieces(hidden_ND: Tensor, weight_VD: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Logits of PIECE tokens of the vocabulary after another, each with its first token, (N, P)."""
    for start in range(0, len(weight_VD), PIECE):
        yield start, F.linear(hidden_ND, weight_VD[start : start + PIECE])


class _Product(torch.autograd.Function):
    """y = x·Wᵀ in low precision, whose backward adds to W's fp32 gradient where it lies."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, low_VD: Tensor, head: Head) -> Tensor:
        ctx.save_for_backward(hidden_ND, low_VD)
        ctx.weight_VD, ctx.head = weight_VD, head
        return F.linear(hidden_ND, low_VD)

    @staticmethod
    def backward(ctx: Any, gradient_NV: Tensor) -> tuple[Tensor, None, None, None]:
        hidden_ND, low_VD = ctx.saved_tensors
        ctx.head.gradient(ctx.weight_VD).addmm_(gradient_NV.T.float(), hidden_ND.float())
        return gradient_NV @ low_VD, None, None, None
