"""Where a Hugging Face decoder keeps its layers, and which of their linear layers form the MLP."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from gdo_cli.lm.projections import ATTENTION_COLUMN_NAMES, ATTENTION_ROW_NAMES, COLUMN_NAMES, ROW_NAMES

Names = tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """The text decoder inside a model: its layers and their full name, e.g. ``model.layers``."""

    name: str
    layers: nn.ModuleList

    def __len__(self) -> int:
        return len(self.layers)


def find_decoder(model: nn.Module) -> Decoder:
    """Return the decoder's layers, inside a multimodal wrapper too.

    Raises:
        ValueError: the model has no decoder with a list of layers.
    """
    get_decoder: Any = getattr(model, "get_decoder", None)
    decoder = get_decoder() if get_decoder else model
    layers = getattr(decoder, "layers", None)
    if isinstance(layers, nn.ModuleList):
        name = next(name for name, module in model.named_modules() if module is layers)
        return Decoder(name, layers)
    raise ValueError(f"{type(model).__name__} has no decoder layers that gdo knows how to find")


def mlp_projections(model: nn.Module, layers: list[int] | None = None) -> tuple[list[str], list[str]]:
    """Return the full names of the MLP's up-projections and down-projections in the chosen layers.

    Args:
        layers: indices of decoder layers; None for all.
    Returns:
        (columns, rows): gate and up, and down, in a gated MLP.
    Raises:
        ValueError: a layer without both, or an index out of range.
    """
    return _projections(model, layers, COLUMN_NAMES, ROW_NAMES, "MLP")


def attention_projections(model: nn.Module, layers: list[int] | None = None) -> tuple[list[str], list[str]]:
    """Return those of q, k, v and of the output projection, as :func:`mlp_projections` does of the MLP."""
    return _projections(model, layers, ATTENTION_COLUMN_NAMES, ATTENTION_ROW_NAMES, "attention")


def _projections(
    model: nn.Module, layers: list[int] | None, up_names: Names, down_names: Names, what: str
) -> tuple[list[str], list[str]]:
    decoder = find_decoder(model)
    columns: list[str] = []
    rows: list[str] = []
    for index in range(len(decoder)) if layers is None else layers:
        if not 0 <= index < len(decoder):
            raise ValueError(f"layer {index} does not exist: the model has 0 to {len(decoder) - 1}")
        prefix = f"{decoder.name}.{index}."
        linear = (n for n, m in decoder.layers[index].named_modules() if isinstance(m, nn.Linear))
        found = [n.removesuffix(".base_layer") for n in linear]  # an adapter may stand there already
        up = [prefix + name for name in found if _last(name) in up_names]
        down = [prefix + name for name in found if _last(name) in down_names]
        if not up or not down:
            raise ValueError(
                f"layer {index} of {type(model).__name__} has no {what} that can be grown (linear layers: "
                f"{', '.join(found) or 'none'}); name them with target_modules and row_modules"
            )
        columns += up
        rows += down
    return columns, rows


def layer_index(parameter_name: str) -> int | None:
    """Return the decoder layer a parameter belongs to; None for embeddings, head and final norm."""
    match = re.search(r"\.layers\.(\d+)\.", f".{parameter_name}")
    return int(match[1]) if match else None


def _last(name: str) -> str:
    return name.rpartition(".")[2]
