"""A model's parameters by kind."""

from __future__ import annotations

import re

from torch import nn

from gdo_cli.lm.decoder import layer_index

_UNUSED = ("vision_tower", "multi_modal_projector")  # parts of a multimodal wrapper that read images


def text_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return parameters by name, tied ones once, without a vision tower: nothing here uses it."""
    named = model.named_parameters()
    return {name: p for name, p in named if not any(part in name for part in _UNUSED)}


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return gains and biases of every norm, by the modules' types: names differ (``ln_1``, ``q_norm``)."""
    return [p for module in model.modules() if _is_norm(module) for p in module.parameters(recurse=False)]


def _is_norm(module: nn.Module) -> bool:
    # Families bring classes of their own, named by what they are: Gemma3RMSNorm, MambaRMSNormGated.
    return re.search(r"norm(gated|1p)?$", type(module).__name__.lower()) is not None


def embedding_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return every table that is looked up: of tokens, of learnt positions."""
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    return [parameter for table in tables for parameter in table.parameters()]


def module_kind(name: str) -> str:
    """Return the kind of layer a parameter belongs to: ``gate_proj``, ``norm``, ``embedding``, …"""
    if "norm" in name:
        return "norm"
    if layer_index(name) is None:
        return "embedding" if "embed" in name or "lm_head" in name else "other"
    parts = name.split(".")
    known = (p for p in parts if p.endswith("_proj") or p.startswith(("fc", "dense")))
    return next(known, "other")
