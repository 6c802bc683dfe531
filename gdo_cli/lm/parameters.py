"""A model's parameters by kind."""

from __future__ import annotations

from torch import nn

from gdo_cli.lm.decoder import layer_index

_UNUSED = ("vision_tower", "multi_modal_projector")  # parts of a multimodal wrapper that read images


def text_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return parameters by name, tied ones once, without a vision tower: nothing here uses it."""
    named = model.named_parameters()
    return {name: p for name, p in named if not any(part in name for part in _UNUSED)}


def module_kind(name: str) -> str:
    """Return the kind of layer a parameter belongs to: ``gate_proj``, ``norm``, ``embedding``, …"""
    if "norm" in name:
        return "norm"
    if layer_index(name) is None:
        return "embedding" if "embed" in name or "lm_head" in name else "other"
    parts = name.split(".")
    known = (p for p in parts if p.endswith("_proj") or p.startswith(("fc", "dense")))
    return next(known, "other")
