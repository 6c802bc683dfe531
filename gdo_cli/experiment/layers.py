"""Which layers to grow when a number is asked for (paper, section 4.2)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor, nn

from gdo_cli.config.run_config import PILOT_RULES, RunConfig
from gdo_cli.lm.decoder import find_decoder, mlp_projections
from gdo_cli.methods.base import layer_indices
from gdo_cli.methods.sft import SFT
from gdo_cli.runs.ranking import ranking
from gdo_cli.runs.record import ChosenLayers, RunResult
from gdo_cli.support.console import note

# Interquartile range of a normal distribution in standard deviations.
_IQR = 1.349


def choose_layers(config: RunConfig, model: nn.Module, run: Callable[[RunConfig], RunResult]) -> ChosenLayers:
    """Return the layers that a run's ``layers`` and ``layer_rule`` stand for, and how they were chosen.

    Args:
        model: the base model; ``snr`` reads its weights, the other rules only count its layers.
        run: called for the pilot, which returns at once if it is among the finished runs.
    Raises:
        UserError: an index out of range.
    """
    asked, rule = getattr(config.method, "layers", "all"), config.layer_rule
    if asked == "all":
        return ChosenLayers(asked, chosen="all")
    n_layers = len(find_decoder(model))
    if not isinstance(asked, int):
        return ChosenLayers(asked, chosen=layer_indices(asked, n_layers) or "all")
    if asked >= n_layers:
        note(f"layers={asked}: the model has {n_layers} layers, so all of them")
        return ChosenLayers(asked, depth=n_layers)
    record = ChosenLayers(asked, rule)
    if rule in PILOT_RULES:
        pilot = pilot_config(config)
        note(f"layers={config.layers}: ranked by a pilot run of SFT ({pilot.id})")
        found = run(pilot)
        order = ranking(found, "relative" if rule == "relative" else "norm")
        seconds = found.record.wall_seconds
        record = replace(record, pilot=found.title, pilot_seconds=seconds, ranking=order)
        chosen = order[-asked:] if rule == "worst" else order[:asked]
    elif rule == "snr":
        values = layer_signal(model)
        order = sorted(range(n_layers), key=lambda layer: (-values[layer], layer))
        known = [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
        record = replace(record, snr=known, ranking=order)
        chosen = order[:asked]
    elif rule == "random":
        chosen = random.Random(f"layers/{config.seed}").sample(range(n_layers), asked)
    elif rule == "spread":
        chosen = [round((i + 0.5) * n_layers / asked - 0.5) for i in range(asked)]
    else:
        chosen = list(range(n_layers))[-asked:] if rule == "last" else list(range(asked))
    return replace(record, chosen=sorted(chosen))


def needs_pilot(config: RunConfig) -> bool:
    """Return whether a finished pilot run is needed to choose the run's layers."""
    asked = getattr(config.method, "layers", "all")
    depth = config.model.depth(config.name["model"])
    few = isinstance(asked, int) and (depth is None or asked < depth)
    return few and config.layer_rule in PILOT_RULES


def pilot_config(config: RunConfig) -> RunConfig:
    """Return the SFT run on the same model, task and data, for as many steps: Adam at the model's own rate.

    So runs that differ in optimizer or rates alone work on the same layers.
    """
    lr, warmup_steps = config.model.lr, config.model.warmup_steps
    dropped = ("method", "layer", "train.lr=", "train.lr_scale", "train.warmup_steps=", "train.optimizer=")
    words = [word for word in config.overrides if not word.startswith(dropped)]
    words += ["method=sft", "layers=all", f"train.lr={lr}", f"train.warmup_steps={warmup_steps}"]
    words += ["train.optimizer=adam"] if config.train.optimizer != "adam" else []
    words += ["train.lr_scale=null"] if config.train.lr_scale else []
    return replace(
        config,
        method=SFT(),
        train=replace(config.train, lr=lr, warmup_steps=warmup_steps, optimizer="adam", lr_scale=None),
        layers="all",
        layer_rule="pilot",
        name=config.name | {"method": "sft"},
        overrides=words,
    )


def layer_signal(model: nn.Module) -> list[float]:
    """Return the mean signal-to-noise ratio of the MLP's matrices of each decoder layer."""
    values = []
    for index in range(len(find_decoder(model))):
        columns, rows = mlp_projections(model, [index])
        matrices = [model.get_submodule(name).get_parameter("weight") for name in columns + rows]
        values.append(mean(signal_to_noise(matrix) for matrix in matrices))
    return values


def signal_to_noise(weight: Tensor) -> float:
    """Return Σ of the singular values above noise / Σ of the others, by the largest one (Spectrum; Hartford
    et al., 2024, section 3).

    Noise ends at the Marchenko-Pastur edge σ·(1 + √β), where β ≤ 1 is the matrix's aspect ratio and σ,
    robust to outliers, the singular values' interquartile range / 1.349. Infinite where nothing is noise.
    """
    singular = torch.linalg.svdvals(weight.detach().double())
    if not float(singular.max()):
        return 0.0
    quartiles = torch.quantile(singular, torch.tensor([0.25, 0.75], dtype=singular.dtype))
    sigma = float(quartiles[1] - quartiles[0]) / _IQR
    edge = sigma * (1 + math.sqrt(min(weight.shape) / max(weight.shape)))
    signal, noise = (float(part.sum()) for part in (singular[singular > edge], singular[singular <= edge]))
    return signal / noise / float(singular.max()) if noise else math.inf
