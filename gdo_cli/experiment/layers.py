"""Which layers to grow when a number is asked for (paper, section 4.2)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from gdo_cli.config.run_config import PILOT_RULES, RunConfig
from gdo_cli.experiment.spectrum import layer_signal
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.methods.base import layer_indices
from gdo_cli.methods.sft import SFT
from gdo_cli.runs.ranking import ranking
from gdo_cli.runs.record import RunResult
from gdo_cli.runs.run_record import ChosenLayers
from gdo_cli.support.console import note


@dataclass(frozen=True)
class Choice:
    """The layers of a run.

    Attributes:
        layers: indices in order; None for all.
        record: what was asked for, the rule, and the pilot run with its cost, for result.json.
    """

    layers: list[int] | None
    record: ChosenLayers


def choose_layers(config: RunConfig, model: nn.Module, run: Callable[[RunConfig], RunResult]) -> Choice:
    """Return the layers that a run's ``layers`` and ``layer_rule`` stand for.

    Args:
        model: the base model; ``snr`` reads its weights, the other rules only count its layers.
        run: called for the pilot, which returns at once if it is among the finished runs.
    Raises:
        UserError: an index out of range.
    """
    asked = getattr(config.method, "layers", "all")
    n_layers = len(find_decoder(model))
    if not isinstance(asked, int):
        layers = layer_indices(asked, n_layers)
        return Choice(layers, ChosenLayers(asked, chosen=layers or "all"))
    if asked >= n_layers:
        note(f"layers={asked}: the model has {n_layers} layers, so all of them")
        return Choice(None, ChosenLayers(asked, depth=n_layers))
    record = ChosenLayers(asked, config.layer_rule)
    if config.layer_rule in PILOT_RULES:
        pilot = pilot_run(config, run)
        order = ranking(pilot, "relative" if config.layer_rule == "relative" else "norm")
        cost = pilot.record.wall_seconds
        record = replace(record, pilot=pilot.title, pilot_seconds=cost, ranking=order)
        chosen = order[-asked:] if config.layer_rule == "worst" else order[:asked]
    elif config.layer_rule == "snr":
        values = layer_signal(model)
        order = sorted(range(n_layers), key=lambda layer: (-values[layer], layer))
        known = [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
        record = replace(record, snr=known, ranking=order)
        chosen = order[:asked]
    else:
        chosen = _without_pilot(config.layer_rule, asked, n_layers, config.seed)
    return Choice(sorted(chosen), replace(record, chosen=sorted(chosen)))


def needs_pilot(config: RunConfig) -> bool:
    """Return whether a finished pilot run is needed to choose the run's layers."""
    asked = getattr(config.method, "layers", "all")
    depth = config.model.depth(config.name["model"])
    few = isinstance(asked, int) and (depth is None or asked < depth)
    return few and config.layer_rule in PILOT_RULES


def pilot_run(config: RunConfig, run: Callable[[RunConfig], RunResult]) -> RunResult:
    """Return the finished pilot of a run."""
    pilot = pilot_config(config)
    note(f"layers={config.layers}: ranked by a pilot run of SFT ({pilot.id})")
    return run(pilot)


def pilot_config(config: RunConfig) -> RunConfig:
    """Return the SFT run on the same model, task and data, at the model's own rate and for as many steps."""
    train = replace(config.train, lr=config.model.lr, warmup_steps=config.model.warmup_steps)
    dropped = ("method", "layer", "train.lr=", "train.warmup_steps=")
    kept = [word for word in config.overrides if not word.startswith(dropped)]
    return replace(
        config,
        method=SFT(),
        train=train,
        layers="all",
        layer_rule="pilot",
        name=config.name | {"method": "sft"},
        overrides=[
            *kept,
            "method=sft",
            "layers=all",
            f"train.lr={train.lr}",
            f"train.warmup_steps={train.warmup_steps}",
        ],
    )


def _without_pilot(rule: str, n: int, n_layers: int, seed: int) -> list[int]:
    if rule == "first":
        return list(range(n))
    if rule == "last":
        return list(range(n_layers - n, n_layers))
    if rule == "spread":
        return [round((i + 0.5) * n_layers / n - 0.5) for i in range(n)]
    assert rule == "random"
    return random.Random(f"layers/{seed}").sample(range(n_layers), n)
