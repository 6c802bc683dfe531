"""What a method may add to the loss, to hold the model near where it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.device import hold_weights
from gdo_cli.lm.tokens import Encoded
from gdo_cli.training.batches import Batch, batches, collate


class Penalty:
    """Something that a method adds to the loss of every batch."""

    def positions(self, batch: Batch) -> Tensor:
        """Return flat positions of the batch whose logits the penalty wants to see, (P,)."""
        return torch.empty(0, dtype=torch.long)

    def value(self, lm: AnswerLM, batch: Batch, logits_PV: Tensor) -> Tensor:
        """Return the penalty, a scalar; gradients flow through it."""
        raise NotImplementedError

    def skip(self, batches: int) -> None:
        """Go on as after so many batches."""


class SquaredDistance(Penalty):
    """½·α·‖θ - θ₀‖² over everything that trains, θ₀ where it stands now (L2-SP; Xuhong Li et al., 2018)."""

    def __init__(self, lm: AnswerLM, alpha: float) -> None:
        self.alpha = alpha
        self.pairs = [(p, p.detach().clone()) for p in lm.parameters() if p.requires_grad]

    def value(self, lm: AnswerLM, batch: Batch, logits_PV: Tensor) -> Tensor:
        apply: Any = _HalfSquaredDistance.apply
        terms = [apply(p, start) for p, start in self.pairs]
        return self.alpha * torch.stack(terms).sum()


class _HalfSquaredDistance(torch.autograd.Function):
    """½·‖x - y‖² with the gradient x - y, which is made when it is asked for: autograd would keep a
    copy of every weight for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.dist(x, y).square() / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        return gradient * (x - y), None


class Divergence(Penalty):
    """β·KL(base ‖ model), the mean over places of the batch's own sequences.

    The base is a frozen copy of the model as it stands now, in compute precision.

    Args:
        at: ``answer``, where the loss is, or ``prompt``, at PLACES spread evenly over each prompt, the
            answer's first token left out.
    """

    PLACES = 8

    def __init__(self, lm: AnswerLM, beta: float, at: str) -> None:
        self.beta, self.at = beta, at
        teacher = copy.deepcopy(lm.model).requires_grad_(False)
        hold_weights(teacher, lm.compute_dtype)
        self.base = AnswerLM(teacher, lm.compute_dtype).eval()

    def positions(self, batch: Batch) -> Tensor:
        if self.at == "answer":
            return batch.positions_N
        width = batch.input_ids_BT.shape[1]
        return torch.tensor(
            [b * width + t for b, n in enumerate(batch.prompt_lengths) for t in self.places(n)],
            dtype=torch.long,
        )

    def places(self, n: int) -> list[int]:
        """Return distinct places of a prompt of n tokens whose next token is in the prompt too."""
        return sorted({i * (n - 1) // self.PLACES for i in range(self.PLACES)} if n > 1 else set())

    def value(self, lm: AnswerLM, batch: Batch, logits_PV: Tensor) -> Tensor:
        if not len(logits_PV):
            return logits_PV.sum()  # prompts of one token: nothing to compare
        with torch.no_grad():
            places = self.positions(batch).to(lm.device)
            base_PV = self.base(batch.input_ids_BT.to(lm.device), places, batch.lengths)
        model, base = logits_PV.log_softmax(-1), base_PV.log_softmax(-1)
        return self.beta * F.kl_div(model, base, reduction="batchmean", log_target=True)


class Rehearsal(Penalty):
    """weight · the mean loss on sequences of what came before, other ones at every batch.

    Args:
        texts: whole sequences; every token after the first is learnt.
        batch_size: how many of them come with a batch.
    """

    def __init__(self, texts: list[Encoded], weight: float, batch_size: int, seed: int) -> None:
        self.weight = weight
        self.from_batch: Callable[[int], Iterator[list[Encoded]]] = partial(batches, texts, batch_size, seed)
        self.stream = self.from_batch(0)

    def skip(self, batches: int) -> None:
        self.stream = self.from_batch(batches)

    def value(self, lm: AnswerLM, batch: Batch, logits_PV: Tensor) -> Tensor:
        old = collate(next(self.stream), eos_id=None, loss_on="sequence")
        with lm.autocast():
            places = old.positions_N.to(lm.device)
            hidden_ND = lm.hidden(old.input_ids_BT.to(lm.device), places, lengths=old.lengths)
        targets_N = old.targets_N.to(lm.device)
        return self.weight * lm.loss(hidden_ND, targets_N) / len(targets_N)
