"""How many parameters a method adds, and how many it trains."""

from __future__ import annotations

from collections import Counter

from torch import nn

from gdo_cli.growth.grown import GrownLayer
from gdo_cli.lm.decoder import module_kind, text_parameters
from gdo_cli.runs.record import Parameters


def count_parameters(model: nn.Module, n_base: int) -> Parameters:
    """Count what a method adds to a model, and what of it trains.

    A grown layer adds its k-1 copies, an adapter its own weights; a stock checkpoint may hold more, as all
    its layers have one width, or none of it, as G-Train folds.

    Args:
        n_base: parameters of the text model before the method changed it.
    """
    parameters = text_parameters(model)
    grown = [module for module in model.modules() if isinstance(module, GrownLayer)]
    own = sum(p.numel() for m in grown for p in m.grow.parameters())
    added = sum(p.numel() for p in parameters.values()) - n_base - own
    added += sum(module.n_added for module in grown)
    trains: Counter[str] = Counter()
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            trains[module_kind(name)] += parameter.numel()
    trained = trains.total()
    return Parameters(n_base, added, trained, trained / n_base, dict(sorted(trains.items())))


def describe_parameters(label: str, counts: Parameters) -> str:
    """E.g. ``G-Freeze adds 70,778,880 parameters and trains 70,778,880 (26.4 % of 268,098,176):
    down_proj 23,592,960, gate_proj …``."""
    modules = ", ".join(f"{kind} {count:,}" for kind, count in counts.trainable_by_module.items())
    return (
        f"{label} adds {counts.added:,} parameters and trains {counts.trainable:,} "
        f"({100 * counts.trainable_share:.1f} % of {counts.base:,}){': ' if modules else ''}{modules}"
    )
