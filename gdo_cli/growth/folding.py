"""From a grown model to a stock one: as wide as it has grown, folded, or averaged.

A stock checkpoint has one MLP width (and one number of heads) for all layers, so layers that did not
grow are padded with zeros where others did: units whose inputs and outputs are zero add nothing.
Wider heads have a module of their own, :mod:`gdo_cli.growth.stock_heads`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from gdo_cli.growth.layer import GrownColumns, GrownLinear, GrownRows, plain_linear
from gdo_cli.growth.stock_heads import has_wider_heads, to_stock_heads
from gdo_cli.lm.decoder import attention_projections, find_decoder, mlp_projections
from gdo_cli.lm.projections import COLUMN_NAMES, ROW_NAMES

FORMS = ("grown", "folded", "averaged")
WIDTHS = ("intermediate_size", "ffn_dim")  # what a configuration calls the width of its MLPs
SAME = 1e-6  # of the largest weight: copies that lie no farther apart were parted by rounding


def natural_form(model: Any) -> str | None:
    """Return the smallest exact form: folded for G-Train, else grown; None where nothing has grown."""
    if has_wider_heads(model):
        return "grown"
    grown = [layer.growth[layer.active_adapters[0]] for _, layer in _grown(model)]
    if not grown:
        return None
    return "folded" if all(growth.trainable == "columns" for growth in grown) else "grown"


def widen(model: Any) -> nn.Module:
    """Return the base architecture with every MLP (and attention) as wide as the grown ones (exact).

    Args:
        model: a PEFT model with one active growth adapter, a model with wider heads, or one with
            both; it is used up.
    Raises:
        ValueError: no configuration of the base architecture says what has grown.
    """
    if has_wider_heads(model):
        to_stock_heads(model)
    return _widen_layers(model) if any(True for _ in _grown(model)) else model


def check_stock(model: Any) -> None:
    """Refuse what :func:`widen` would make no stock checkpoint of; the model, on any device, is used up.

    Raises:
        ValueError: the stock architecture has no place for what has grown.
    """
    if natural_form(model) != "grown":
        return
    plain: Any = widen(model)
    with torch.device("meta"):
        stock = {name: p.shape for name, p in type(plain)(plain.config).named_parameters()}
    for name, parameter in plain.named_parameters():
        if stock.get(name) != parameter.shape:
            raise ValueError(
                f"no stock {type(plain).__name__} can hold it: {name} would be {tuple(parameter.shape)}, not "
                f"{tuple(stock.get(name, ()))}"
            )


def _widen_layers(model: Any) -> nn.Module:
    grown = dict(_grown(model))
    mlp = {name for name in grown if name.endswith(COLUMN_NAMES + ROW_NAMES)}
    factors = {layer.growth[layer.active_adapters[0]].k for layer in grown.values()}
    if len(factors) != 1:
        raise ValueError(f"layers have grown by different factors: {sorted(factors)}")
    (k,) = factors
    grew_mlp, grew_attention = bool(mlp), len(mlp) < len(grown)
    config = model.config.get_text_config()
    width_name = next((name for name in WIDTHS if hasattr(config, name)), WIDTHS[0])
    wanted = [width_name] * grew_mlp + ["num_attention_heads", "num_key_value_heads"] * grew_attention
    if missing := [name for name in wanted if getattr(config, name, None) is None]:
        raise ValueError(f"a configuration of this architecture has no {' and no '.join(missing)}")
    if grew_mlp and not isinstance(getattr(config, width_name), int):
        raise ValueError(f"{width_name} has a value for each layer, which gdo does not widen")
    plain: nn.Module = model.merge_and_unload()
    config = plain.config.get_text_config()  # type: ignore[operator,union-attr]
    if grew_mlp:
        width = getattr(config, width_name)
        _pad(plain, mlp_projections(plain), k, width)
        setattr(config, width_name, k * width)
    if grew_attention:
        attention: Any = find_decoder(plain).layers[0].self_attn
        config.head_dim = attention.head_dim  # some derive it from the number of heads
        _pad(plain, attention_projections(plain), k, config.num_attention_heads * config.head_dim)
        config.num_attention_heads *= k
        config.num_key_value_heads *= k
        config.validate_architecture()  # some want a hidden size that the number of heads divides
    return plain


def _pad(model: nn.Module, names: tuple[list[str], list[str]], k: int, width: int) -> None:
    """Pad with zeros every up- and down-projection that is still as it was."""
    columns, rows = names
    of_one_layer = groupby(columns, lambda name: name.rpartition(".")[0])
    for (_, up), down in zip(of_one_layer, rows, strict=True):
        row: Any = model.get_submodule(down)
        if row.in_features == width:
            model.set_submodule(down, plain_linear(_zeros_after(row.weight, 1, k), row.bias))
            for name in up:
                column: Any = model.get_submodule(name)
                bias = None if column.bias is None else _zeros_after(column.bias, 0, k)
                model.set_submodule(name, plain_linear(_zeros_after(column.weight, 0, k), bias))


def _zeros_after(tensor: Tensor, dim: int, k: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] *= k - 1
    return torch.cat([tensor.detach(), tensor.new_zeros(shape)], dim=dim)


@torch.no_grad()
def fold(model: Any) -> nn.Module:
    """G-Train at the original size (exact): its copies are equal, so one of them says it all.

    Trained in fp32 on some numbers of threads they are so up to rounding (guards.EXACT_TOLERANCE).

    Raises:
        ValueError: the adapter does not train columns alone, or its copies differ.
    """
    _refuse_wider_heads(model)
    for name, layer in _grown(model):
        adapter = layer.active_adapters[0]
        if layer.growth[adapter].trainable != "columns":
            raise ValueError(f"{name}: only G-Train folds; new down-projections would be lost")
        if isinstance(layer, GrownColumns):
            for old, new in _old_and_new(layer, adapter):
                old.data = _one_of_equal(new, layer.out_features, name)
    return model.unload()


@torch.no_grad()
def average(model: Any) -> nn.Module:
    """G-Freeze at the original size: old and new weights averaged by the share they carry.

    W = (1-s)·W_old + s·W_new is the first-order approximation of the output average
    (1-s)·MLP_old(x) + s·MLP_new(x) that the grown layer computes. Not exact: measure what it costs.

    Raises:
        ValueError: the adapter trains columns alone (G-Train folds exactly), s is 0, or heads are wider.
    """
    _refuse_wider_heads(model)
    for name, layer in _grown(model):
        adapter = layer.active_adapters[0]
        growth = layer.growth[adapter]
        if growth.trainable == "columns" or not growth.new_share:
            raise ValueError(f"{name}: there is no average to take; use the form folded or grown")
        share = growth.new_share
        for old, new in _old_and_new(layer, adapter):
            if isinstance(layer, GrownRows):  # new rows carry s already
                copies = new.split(layer.in_features, dim=1) if new.ndim == 2 else [new]
                old.data = (1 - share) * old.float() + sum(copies)
            else:
                copies = new.split(layer.out_features)
                old.data = (1 - share) * old.float() + share * sum(copies) / len(copies)
    return model.unload()


def _refuse_wider_heads(model: Any) -> None:
    if has_wider_heads(model):
        raise ValueError(
            "its heads are wider, and old and new parts of a head meet in one softmax, so they neither "
            "fold nor average; use the form grown"
        )


def _grown(model: Any) -> Iterator[tuple[str, GrownLinear]]:
    return ((name, m) for name, m in model.named_modules() if isinstance(m, GrownLinear))


def _old_and_new(layer: GrownLinear, adapter: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The base's weight, and its bias if it has one, each with the adapter's own in fp32."""
    base, own = layer.get_base_layer(), layer.own_parameters(adapter, torch.float32)
    return ((old, new) for old, new in zip((base.weight, base.bias), own, strict=True) if new is not None)


def _one_of_equal(tensor: Tensor, size: int, name: str) -> Tensor:
    first, *others = tensor.split(size)
    apart = max(float((first - other).abs().max()) for other in others)
    if not apart <= SAME * float(first.abs().max()):
        raise ValueError(
            f"{name}: the copies differ by up to {apart:.1g}, so they do not fold; use the form grown"
        )
    return first
