"""How much of a weight matrix stands out of noise, by its singular values alone."""

from __future__ import annotations

import math
from statistics import mean

import torch
from torch import Tensor, nn

from gdo_cli.lm.decoder import find_decoder, mlp_projections

# Interquartile range of a normal distribution in standard deviations.
_IQR = 1.349


def signal_to_noise(weight: Tensor) -> float:
    """Σ of the singular values above noise / Σ of the others, by the largest one (Spectrum; Hartford et
    al., 2024, section 3). Noise ends at the Marchenko-Pastur edge σ·(1 + √β), where β ≤ 1 is the
    matrix's aspect ratio and σ, robust to outliers, the singular values' interquartile range / 1.349.
    Infinite where nothing is noise.
    """
    singular = torch.linalg.svdvals(weight.detach().double())
    if not float(singular.max()):
        return 0.0
    quartiles = torch.quantile(singular, torch.tensor([0.25, 0.75], dtype=singular.dtype))
    sigma = float(quartiles[1] - quartiles[0]) / _IQR
    edge = sigma * (1 + math.sqrt(min(weight.shape) / max(weight.shape)))
    signal, noise = (float(part.sum()) for part in (singular[singular > edge], singular[singular <= edge]))
    return signal / noise / float(singular.max()) if noise else math.inf


def layer_signal(model: nn.Module) -> list[float]:
    """Per decoder layer, the mean signal-to-noise ratio of its MLP's matrices."""
    values = []
    for index in range(len(find_decoder(model))):
        columns, rows = mlp_projections(model, [index])
        matrices = [model.get_submodule(name).get_parameter("weight") for name in columns + rows]
        values.append(mean(signal_to_noise(matrix) for matrix in matrices))
    return values
