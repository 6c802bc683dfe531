"""How far, and in how many directions, the weights of each layer have moved during a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gdo_cli.lm.decoder import layer_index, module_kind
from gdo_cli.stats.metrics import DISTANCE
from gdo_cli.training.distributed import full_tensor

# Entries whose squares are summed at once: of an embedding's 1.7e8, fp32 finds a norm that is 2 % too small.
PIECE = 1 << 20


class UpdateTracker:
    """Follows what trains: each matrix of the decoder's layers, and all parameters by kind.

    It keeps a copy of them from the start and, for ranks, of gate and up from the last look, with the sum
    of their gradients since then; so nothing has to be stored on disk. What trains is held in fp32:
    differences of bf16 weights would measure rounding.

    Adam divides every entry by its own size, which evens out the singular values: its changes have a high
    entropy rank whatever is learnt. The sum of the plain gradients over the same steps is the control: the
    direction in which gradient descent at a constant rate would have gone, along the same path.
    """

    def __init__(self, model: nn.Module, with_rank: bool) -> None:
        self.model = model
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        self.start = {name: _narrow_copy(parameter) for name, parameter in trained.items()}
        ranked = [name for name in self.matrices if with_rank and _ranked(name)]
        self.last = {name: trained[name].clone() for name in ranked}
        self.gradients = {name: torch.zeros_like(trained[name]) for name in ranked}

    @property
    def matrices(self) -> dict[str, nn.Parameter]:
        """The layers' matrices as they are now."""
        return {
            name: p for name, p in self.parameters.items() if p.ndim == 2 and layer_index(name) is not None
        }

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that trains, as it is now: FSDP puts parameters of its own in the place of the first ones."""
        return {name: self.model.get_parameter(name) for name in self.start}

    def state(self) -> dict[str, Tensor]:
        """Return what cannot be had again from the prepared model: the matrices at the last look and the
        sums of their gradients since, by name."""
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
            before = self.start[name].to(parameter.dtype)
            moved = float(torch.linalg.vector_norm(parameter.detach() - before))
            yield name, moved, float(torch.linalg.vector_norm(before))

    def by_kind(self) -> dict[str, dict[str, float | None]]:
        """Return how far the parameters of each kind have moved since the start, all layers together.

        Returns:
            By kind (``embedding``, ``norm``, ``q_proj``, ``gate_proj``, …): ``norm``, Frobenius, and
            ``relative`` to that of the same parameters at the start, None where that is zero.
        """
        moved: dict[str, float] = defaultdict(float)
        size: dict[str, float] = defaultdict(float)
        for name, parameter in self.parameters.items():
            kind = module_kind(name)
            pieces = zip(_pieces(parameter.detach()), _pieces(self.start[name]), strict=True)
            for now, before in pieces:
                moved[kind] += float(torch.linalg.vector_norm(now - before)) ** 2
                size[kind] += float(torch.linalg.vector_norm(before.to(now.dtype))) ** 2
        return {
            kind: {"norm": math.sqrt(m), "relative": math.sqrt(m / size[kind]) if size[kind] else None}
            for kind, m in moved.items()
        }

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


def _narrow_copy(parameter: Tensor) -> Tensor:
    """A copy, in bf16 where that loses nothing, as of most checkpoints' weights and their halves."""
    narrow = parameter.to(torch.bfloat16)
    if parameter.is_meta or torch.equal(narrow.to(parameter.dtype), parameter):
        return narrow.clone() if narrow is parameter else narrow
    return parameter.clone()


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.flatten().split(PIECE)


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
