"""How far, and in how many directions, the weights of each layer have moved during a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gdo_cli.lm.decoder import layer_index
from gdo_cli.lm.parameters import module_kind
from gdo_cli.stats.metrics import DISTANCE
from gdo_cli.training.distributed import full_tensor


class UpdateTracker:
    """Follows the trainable matrices of the decoder's layers.

    It keeps a copy of them from the start and, for ranks, of gate and up from the last look, with the sum
    of their gradients since then; so nothing has to be stored on disk. What trains is held in fp32:
    differences of bf16 weights would measure rounding.

    Adam divides every entry by its own size, which evens out the singular values: its changes have a high
    entropy rank whatever is learnt. The sum of the plain gradients over the same steps is the control: the
    direction in which gradient descent at a constant rate would have gone, along the same path.
    """

    def __init__(self, model: nn.Module, with_rank: bool) -> None:
        self.model = model
        self.start = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.ndim == 2 and layer_index(name) is not None
        }
        ranked = [name for name in self.start if with_rank and _ranked(name)]
        self.last = {name: self.start[name].clone() for name in ranked}
        self.gradients = {name: torch.zeros_like(self.start[name]) for name in ranked}

    @property
    def matrices(self) -> dict[str, nn.Parameter]:
        """As they are now: FSDP puts parameters of its own in the place of the first ones."""
        return {name: self.model.get_parameter(name) for name in self.start}

    def state(self) -> dict[str, Tensor]:
        """Return what cannot be had again from the prepared model: the matrices at the last look and the
        sums of
        their gradients since, by name."""
        looks = {f"look.{name}": before for name, before in self.last.items()}
        return looks | {f"gradient.{name}": total for name, total in self.gradients.items()}

    def norms(self) -> list[dict[str, Any]]:
        """Per matrix: layer, module, Frobenius norm of the update since the start, absolute and
        relative to the weight's own."""
        return [
            self._place(name) | {"norm": moved, "relative": moved / size if size else None}
            for name, moved, size in self._moved()
        ]

    def distance(self) -> dict[str, float]:
        """Return how far all of them together have moved, by their own norm, as a measure of a run; nothing
        where there are none, or they began at zero."""
        found = list(self._moved())
        moved, size = math.hypot(*(m for _, m, _ in found)), math.hypot(*(s for *_, s in found))
        return {DISTANCE: moved / size} if size else {}

    def _moved(self) -> Iterator[tuple[str, float, float]]:
        """The norm of each one's update since the start, and its own norm then."""
        for name, parameter in self.matrices.items():
            before = self.start[name]
            moved = float(torch.linalg.vector_norm(parameter.detach() - before))
            yield name, moved, float(torch.linalg.vector_norm(before))

    def ranks(self) -> list[dict[str, Any]]:
        """Per gate and up matrix: ranks of its change since the last look (``of: weights``) and of the sum
        of its gradients (``of: gradients``); empty when not asked for."""
        rows = []
        matrices = self.matrices
        for name, last in self.last.items():
            parameter, gradient = matrices[name].detach(), self.gradients[name]
            for what, delta in (("weights", parameter - last), ("gradients", gradient)):
                place = self._place(name) | {"of": what, "full_rank": min(delta.shape)}
                rows.append(place | matrix_ranks(delta))
            last.copy_(parameter)
            gradient.zero_()
        return rows

    def add_gradients(self) -> None:
        """To be called, by every process, when the gradients of a step are complete."""
        matrices = self.matrices
        for name, total in self.gradients.items():
            gradient = matrices[name].grad
            if gradient is not None:
                total.add_(full_tensor(gradient))

    @staticmethod
    def _place(name: str) -> dict[str, Any]:
        return {"layer": layer_index(name), "module": module_kind(name)}


def _ranked(name: str) -> bool:
    return module_kind(name) in ("gate_proj", "up_proj", "fc1")


def matrix_ranks(delta: Tensor) -> dict[str, float]:
    """Return effective rank (Roy & Vetterli, 2007: exp of the entropy of σ/Σσ), stable rank ‖Δ‖_F²/σ₁², and
    participation ratio (Σσ²)²/Σσ⁴ of a matrix; zeros for a zero matrix.

    The singular values come from the smaller Gram matrix in float64, whose error (σ₁·1e-8) is far
    below what fp32 weights hold.
    """
    wide = delta.double()
    gram = wide.T @ wide if wide.shape[0] >= wide.shape[1] else wide @ wide.T
    sigma = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    top = float(sigma.max())
    if top == 0:
        return {"effective_rank": 0.0, "stable_rank": 0.0, "participation_ratio": 0.0}
    share = sigma / sigma.sum()
    entropy = -float(torch.special.xlogy(share, share).sum())
    squares = sigma.square()
    return {
        "effective_rank": float(torch.tensor(entropy, dtype=torch.float64).exp()),
        "stable_rank": float(squares.sum() / top**2),
        "participation_ratio": float(squares.sum().square() / squares.square().sum()),
    }
