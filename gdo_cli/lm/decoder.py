"""Where a Hugging Face decoder keeps its layers, which of their linear layers form the MLP or attention, and
what kind each parameter is of."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gdo_cli.lm.experts import experts_of, is_experts
from gdo_cli.lm.pairs import nearest_rows
from gdo_cli.lm.projections import ATTENTION_COLUMN_NAMES, ATTENTION_ROW_NAMES, COLUMN_NAMES, ROW_NAMES

Names = tuple[str, ...]
_LAYERS = "(?:layers|layer|h|blocks)"  # what families call the list of their layers
_UNUSED = ("vision_tower", "multi_modal_projector")  # parts of a multimodal wrapper that read images


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
    decoder = text_decoder(model)
    lists = {path: m for path, m in decoder.named_modules() if isinstance(m, nn.ModuleList)}
    # What is called so inside a layer is no other list: no number stands before it.
    found = [m for path, m in lists.items() if re.fullmatch(rf"([a-zA-Z_]\w*\.)*{_LAYERS}", path)]
    if len(found) != 1:
        raise ValueError(f"{type(model).__name__} has no decoder layers that gdo knows how to find")
    name = next(name for name, module in model.named_modules() if module is found[0])
    return Decoder(name, found[0])


def text_decoder(model: Any) -> Any:
    """Return the part that turns tokens into last hidden states.

    ``get_decoder`` gives it, but for families that name something else so: the model itself (Llama 4), or
    the head (ModernBERT).
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside an adapter
    found = model.get_decoder() if hasattr(model, "get_decoder") else model
    if found is model or found is model.get_output_embeddings():
        found = next((child for child in model.children() if isinstance(child, PreTrainedModel)), model)
    whole = found is not model and isinstance(found, PreTrainedModel) and found.get_output_embeddings()
    return text_decoder(found) if whole else found


def max_positions(model: Any) -> int:
    """Return how many tokens a sequence may have; the largest integer where the configuration sets no end."""
    config = model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return next((n for n in found if isinstance(n, int) and n > 0), sys.maxsize)


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


def grown_mlps(model: nn.Module, layers: list[int] | None = None) -> tuple[list[str], list[str], list[str]]:
    """Return what :func:`mlp_projections` does, of shared experts too, and modules that hold routed experts.

    Raises:
        ValueError: likewise, or experts that transformers does not hold as parameters of all in one.
    """
    decoder = find_decoder(model)
    columns: list[str] = []
    rows: list[str] = []
    experts: list[str] = []
    for index in range(len(decoder)) if layers is None else layers:
        held = _experts_in(decoder.layers[index]) if 0 <= index < len(decoder) else {}
        if unknown := next((m for m in held.values() if experts_of(m) is None), None):
            raise ValueError(
                f"layer {index} of {type(model).__name__} has experts, which cannot grow as a "
                f"{type(unknown).__name__} holds them; choose the other layers with layers_to_transform"
            )
        if held:
            prefix = f"{decoder.name}.{index}."
            up, down, _ = _in_layer(decoder.layers[index], COLUMN_NAMES, ROW_NAMES)
            columns += [prefix + name for name in up]
            rows += [prefix + name for name in down]
            experts += [prefix + name for name in held]
        else:
            up, down = mlp_projections(model, [index])
            columns, rows = columns + up, rows + down
    return columns, rows, experts


def _experts_in(layer: nn.Module) -> dict[str, nn.Module]:
    """The modules of a layer that hold experts, without what an adapter put around them."""
    return {name: getattr(m, "base_layer", m) for name, m in layer.named_modules() if is_experts(name)}


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
        up, down, found = _in_layer(decoder.layers[index], up_names, down_names)
        if not down:
            raise ValueError(
                f"layer {index} of {type(model).__name__} has no {what} that can be grown (linear layers: "
                f"{', '.join(found) or 'none'})"
            )
        if what == "MLP" and any(is_experts(name) for name, _ in decoder.layers[index].named_modules()):
            raise ValueError(
                f"layer {index} of {type(model).__name__} has experts, which are not trained apart"
            )
        columns += [prefix + name for name in up]
        rows += [prefix + name for name in down]
    return columns, rows


def _in_layer(layer: nn.Module, up_names: Names, down_names: Names) -> tuple[list[str], list[str], list[str]]:
    """The columns of a layer, their rows, and all its linear layers."""
    linear = (n for n, m in layer.named_modules() if isinstance(m, nn.Linear | Conv1D))
    found = [n.removesuffix(".base_layer") for n in linear]  # an adapter may stand there already
    ups, downs = (
        [name for name in found if f".{name}".endswith(tuple(f".{n}" for n in names))]
        for names in (up_names, down_names)
    )
    # What meets nowhere but in the layer is no MLP: the attention of some has a gate_proj of its own.
    read = {name: nearest_rows(name, downs) for name in ups}
    up = [name for name, rows_of in read.items() if len(rows_of) == 1 and _near(name, rows_of[0])]
    return up, list({read[name][0]: None for name in up}), found


def layer_index(parameter_name: str) -> int | None:
    """Return the decoder layer a parameter belongs to; None for embeddings, head and final norm."""
    match = re.search(rf"\.{_LAYERS}\.(\d+)\.", f".{parameter_name}")
    return int(match[1]) if match else None


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


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _near(column: str, row: str) -> bool:
    """Whether they stand in one module, or each is all there is in a module of its own, as in BERT."""
    return _parent(column) == _parent(row) or _last(column) == _last(row)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
