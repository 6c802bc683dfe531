"""How far, and in how many directions, the weights of each layer have moved during a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gdo_cli.growth.architecture import layer_index
from gdo_cli.parameters import module_kind


class UpdateTracker:
    """Follows the trainable matrices of the decoder's layers.

    It keeps two copies of them, at the start and at the last look, so nothing has to be stored on
    disk. What trains is held in fp32: differences of bf16 weights would measure rounding.
    """

    def __init__(self, model: nn.Module, with_rank: bool) -> None:
        self.with_rank = with_rank
        self.matrices = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.ndim == 2 and layer_index(name) is not None
        }
        self.start = {name: p.detach().clone() for name, p in self.matrices.items()}
        self.last = {name: t.clone() for name, t in self.start.items() if with_rank and _ranked(name)}

    def state(self) -> dict[str, Tensor]:
        """What cannot be had again from the prepared model: the matrices at the last look, by name."""
        return {f"look.{name}": before for name, before in self.last.items()}

    def norms(self) -> list[dict[str, Any]]:
        """Per matrix: layer, module, Frobenius norm of the update since the start, absolute and
        relative to the weight's own."""
        rows = []
        for name, parameter in self.matrices.items():
            before = self.start[name]
            moved = float(torch.linalg.vector_norm(parameter.detach() - before))
            size = float(torch.linalg.vector_norm(before))
            rows.append(self._place(name) | {"norm": moved, "relative": moved / size if size else None})
        return rows

    def ranks(self) -> list[dict[str, Any]]:
        """Per gate and up matrix: ranks of its change since the last look; empty when not asked for."""
        rows = []
        for name, before in self.last.items():
            now = self.matrices[name].detach()
            rows.append(self._place(name) | matrix_ranks(now - before))
            before.copy_(now)
        return rows

    @staticmethod
    def _place(name: str) -> dict[str, Any]:
        return {"layer": layer_index(name), "module": module_kind(name)}


def _ranked(name: str) -> bool:
    return module_kind(name) in ("gate_proj", "up_proj", "fc1")


def matrix_ranks(delta: Tensor) -> dict[str, float]:
    """Effective rank (Roy & Vetterli, 2007: exp of the entropy of σ/Σσ), stable rank ‖Δ‖_F²/σ₁², and
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
