"""Wider heads (:mod:`gdo_cli.growth.head_dim`) in a stock model that knows nothing of them.

A stock configuration has one head width for all layers, from which rotary frequencies and the scale of
the scores follow. So layers that did not grow are given copies too; the frequencies, which interleaved
heads repeat, are listed one by one in the form that "longrope" has for it; and what the configuration
cannot say of the scale goes into the queries. Exact up to rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gdo_cli.growth.head_dim import HeadColumns, widen_heads
from gdo_cli.lm.decoder import find_decoder

# Kinds of rotary positions whose frequencies are the same at every length of text.
_STATIC = ("default", "linear", "llama3", "yarn")


def has_wider_heads(model: nn.Module) -> bool:
    return any(isinstance(module, HeadColumns) for module in model.modules())


def to_stock_heads(model: Any) -> None:
    """Replace the attention of every layer by the stock module with heads as wide, in place.

    Raises:
        ValueError: rotary positions that no stock configuration can repeat.
    """
    config, decoder = model.config.get_text_config(), find_decoder(model)
    inner: Any = model.get_submodule(decoder.name.rpartition(".")[0])
    k = next(module.k for module in model.modules() if isinstance(module, HeadColumns))
    factors = _attention_factors(config, inner.rotary_emb)
    config.rope_parameters = _repeated_rope(config, inner.rotary_emb, k)
    layers: Any = decoder.layers
    for layer in layers:
        if not isinstance(layer.self_attn.q_proj, HeadColumns):
            widen_heads(layer.self_attn, k)
    config.head_dim = layers[0].self_attn.head_dim
    if hasattr(config, "query_pre_attn_scalar"):  # Gemma's scale is this to the power of -1/2
        config.query_pre_attn_scalar *= k * k
    for layer, factor in zip(layers, factors, strict=True):
        layer.self_attn = _stock_attention(layer.self_attn, config, factor)
    inner.rotary_emb = type(inner.rotary_emb)(config).to(model.device)


def _attention_factors(config: Any, rotary: Any) -> list[float]:
    """By which each layer's rotary positions scale queries and keys (YaRN's do)."""
    types = getattr(config, "layer_types", None) or [""] * config.num_hidden_layers
    names = (f"{kind}_attention_scaling" for kind in types)
    return [float(getattr(rotary, name, getattr(rotary, "attention_scaling", 1.0))) for name in names]


def _stock_attention(attention: Any, config: Any, factor: float) -> nn.Module:
    """The module that transformers would make of the configuration, with the weights of a widened one.

    Args:
        factor: of queries and of keys, which goes into the queries: vLLM reads no factor of "longrope".
    """
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        setattr(attention, name, getattr(attention, name).plain())
    with torch.device("meta"):
        stock: Any = type(attention)(config, attention.layer_idx)
    stock.load_state_dict(attention.state_dict(), assign=True)
    scale = attention.scaling / stock.scaling * factor**2
    if not math.isclose(scale, 1):
        # A norm would take the factor out again, so where there is one it comes after.
        scaled = getattr(stock, "q_norm", stock.q_proj)
        for parameter in scaled.parameters():
            parameter.data = parameter.data * scale
    return stock.train(attention.training).requires_grad_(False)


def _repeated_rope(config: Any, rotary: Any, k: int) -> dict[str, Any]:
    """``config.rope_parameters`` with every frequency k times, for each type of layer that has its own."""
    parameters, length = config.rope_parameters, config.max_position_embeddings
    types = [t for t in parameters if t in (getattr(config, "layer_types", None) or ())]
    if not types:
        return _listed(parameters, rotary, "", k, length)
    return parameters | {t: _listed(parameters[t], rotary, f"{t}_", k, length) for t in types}


def _listed(parameters: dict[str, Any], rotary: Any, prefix: str, k: int, length: int) -> dict[str, Any]:
    """The rotary module's own frequencies, k times, as "longrope" has them: 1 / (factor · theta^…).

    With theta = 1 the factors are the frequencies' reciprocals, whatever they were scaled by.
    """
    if parameters["rope_type"] not in _STATIC:
        raise ValueError(
            f"rotary positions of type {parameters['rope_type']!r} depend on the length of the text, which "
            "a stock checkpoint cannot combine with wider heads"
        )
    factors = getattr(rotary, f"{prefix}inv_freq").double().reciprocal().repeat(k).tolist()
    return {
        "rope_type": "longrope",
        "rope_theta": 1.0,
        "factor": 1.0,
        "attention_factor": 1.0,  # what there is of one stands in the queries
        "original_max_position_embeddings": length,
        "short_factor": factors,
        "long_factor": factors,
    }
