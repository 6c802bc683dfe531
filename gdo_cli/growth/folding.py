"""From a grown model to a stock one: as wide as it has grown, folded, or averaged.

A stock checkpoint has one MLP width (and one number of heads) for all layers, so layers that did not
grow are padded with zeros where others did: units whose inputs and outputs are zero add nothing.
Wider heads have a module of their own, :mod:`gdo_cli.growth.stock_heads`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gdo_cli.growth.layer import GrownColumns, GrownLinear, GrownRows
from gdo_cli.growth.linear import plain_like, shape_of, weight_of
from gdo_cli.growth.stock_heads import has_wider_heads, to_stock_heads
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.lm.projections import ATTENTION_COLUMN_NAMES, ATTENTION_ROW_NAMES

FORMS = ("grown", "folded", "averaged")
# What a configuration calls the width of its MLPs; BART has one for the encoder and one for the decoder.
WIDTHS = ("intermediate_size_mlp", "intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size")
SAME = 1e-6  # of the largest weight: copies that lie no farther apart were parted by rounding


def natural_form(model: Any) -> str | None:
    """Return the smallest exact form: folded for G-Train, else grown; None where nothing has grown."""
    if has_wider_heads(model):
        return "grown"
    grown = [layer.growth[name] for _, layer in _grown(model) for name in layer.active_here()]
    if not grown:
        return None
    return "folded" if all(growth.trainable == "columns" for growth in grown) else "grown"


def widen(model: Any) -> nn.Module:
    """Return the base architecture with every MLP (and attention) as wide as the grown ones (exact).

    Args:
        model: a model with growth adapters, PEFT's own or one grown by transformers' ``add_adapter``, a
            model with wider heads, or one with both; it is used up.
    Raises:
        ValueError: no configuration of the base architecture says what has grown.
    """
    if has_wider_heads(model):
        to_stock_heads(model)
    if not any(True for _ in _grown(model)):
        return model
    for _, layer in _grown(model):
        layer.unmerge()  # PEFT would say that there is nothing to merge
    widening = Widening.of(model)  # refused before anything is merged
    if hasattr(model, "merge_and_unload"):
        plain: nn.Module = model.merge_and_unload()
        return plain
    for name, layer in list(_grown(model)):
        layer.merge()
        model.set_submodule(name, layer.base_layer)
    return widening.apply(model)


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


@dataclass(frozen=True)
class Widening:
    """What makes merged layers a stock model: as wide layers beside them, and a configuration that says so.

    Attributes:
        k: how many times as wide the grown layers are.
        like: what the grown layers are called, numbers left out, with one of each.
        widths: what the configuration calls the width of MLPs; nothing where none grew.
        attention: whether attention grew.
    """

    k: int
    like: dict[str, GrownLinear]
    widths: tuple[str, ...]
    attention: bool

    @classmethod
    def of(cls, model: Any, names: Sequence[str] | None = None) -> Widening:
        """Return how a model with growth adapters becomes a stock one.

        Args:
            names: the adapters that are to be merged; the active ones by default.
        Raises:
            ValueError: no configuration of the base architecture says what has grown.
        """
        grown = {name: layer for name, layer in _grown(model) if layer.factor(names) > 1}
        _require_floats(grown.items())
        factors = {layer.factor(names) for layer in grown.values()}
        if len(factors) != 1:
            raise ValueError(f"layers have grown by different factors: {sorted(factors)}")
        heads = [name for name in grown if _last(name) in ATTENTION_COLUMN_NAMES + ATTENTION_ROW_NAMES]
        wanted = ("num_attention_heads", "num_key_value_heads") if heads else ()
        config = model.config.get_text_config()
        if missing := [name for name in wanted if getattr(config, name, None) is None]:
            raise ValueError(f"a configuration of this architecture has no {' and no '.join(missing)}")
        like = {_without_numbers(name): layer for name, layer in grown.items()}
        found = cls(factors.pop(), like, (), bool(heads))
        mlps = [name for name in grown if name not in heads]
        return found._with_widths(model, mlps) if mlps else found

    def _with_widths(self, model: Any, mlps: list[str]) -> Widening:
        """The same with what the configuration calls the width of the grown MLPs: that which decides it."""
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = inner.config.get_text_config()
        parts = [part for part in ("encoder", "decoder") if any(f"{part}." in name for name in mlps)]
        candidates = [*((name,) for name in WIDTHS), tuple(f"{part}_ffn_dim" for part in parts)]
        known = [names for names in candidates if _has_all(config, names)]
        if each := [name for names in known for name in names if isinstance(getattr(config, name), list)]:
            raise ValueError(f"{each[0]} has a value for each layer, which gdo does not widen")
        for found in (replace(self, widths=names) for names in known):
            config = copy.deepcopy(inner.config)
            found._set_widths(config.get_text_config())
            with torch.device("meta"):
                stock = type(inner)(config)
            if all(found._fits(name, stock.get_submodule(name)) for name in mlps):
                return found
        told = f"; {', '.join(name for names in known for name in names)} is not it" if known else ""
        raise ValueError(f"this architecture's configuration does not say how wide {mlps[0]} is{told}")

    def _fits(self, name: str, stock: Any) -> bool:
        grown = self.like[_without_numbers(name)]
        return bool(stock.weight.numel() == self.k * grown.in_features * grown.out_features)

    def _set_widths(self, config: Any) -> None:
        """Some leave it out where it is four times the model's own."""
        usual = max((one.in_features for one in self.like.values() if isinstance(one, GrownRows)), default=0)
        for name in self.widths:
            setattr(config, name, self.k * (getattr(config, name) or usual))

    @torch.no_grad()
    def apply(self, plain: Any) -> Any:
        """Return the merged model, every other layer like the grown ones padded to their width."""
        for name, layer in list(plain.named_modules()):
            one = self.like.get(_without_numbers(name))
            if isinstance(one, GrownRows) and shape_of(layer)[1] == one.in_features:
                padded = plain_like(layer, _zeros_after(weight_of(layer), 1, self.k), layer.bias)
            elif isinstance(one, GrownColumns) and shape_of(layer)[0] == one.out_features:
                padded = plain_like(
                    layer,
                    _zeros_after(weight_of(layer), 0, self.k, one.projections),
                    None if layer.bias is None else _zeros_after(layer.bias, 0, self.k, one.projections),
                )
            else:
                continue
            plain.set_submodule(name, padded)
        config = plain.config.get_text_config()
        self._set_widths(config)
        if self.attention:
            layers: Any = find_decoder(plain).layers
            config.head_dim = layers[0].self_attn.head_dim  # some derive it from the number of heads
            config.num_attention_heads *= self.k
            config.num_key_value_heads *= self.k
            config.validate_architecture()  # some want a hidden size that the number of heads divides
        return plain


def _zeros_after(tensor: Tensor, dim: int, k: int, projections: int = 1) -> Tensor:
    """The tensor, or each of the projections in it, with k - 1 times as many zeros behind."""
    pieces = tensor.detach().chunk(projections, dim)
    zeros = pieces[0].new_zeros([n * (k - 1) if d == dim else n for d, n in enumerate(pieces[0].shape)])
    return torch.cat([part for piece in pieces for part in (piece, zeros)], dim=dim)


@torch.no_grad()
def fold(model: Any) -> nn.Module:
    """G-Train at the original size (exact): its copies are equal, so one of them says it all.

    Trained in fp32 on some numbers of threads they are so up to rounding (``SAME``).

    Raises:
        ValueError: the adapter does not train columns alone, or its copies differ.
    """
    for name, layer, adapter in _one_adapter_each(model):
        if layer.growth[adapter].trainable != "columns":
            raise ValueError(f"{name}: only G-Train folds; new down-projections would be lost")
        if isinstance(layer, GrownColumns):
            for which, _, new in _old_and_new(layer, adapter):
                _set(layer, which, _one_of_equal(new, layer.out_features, name))
    return model.unload()


@torch.no_grad()
def average(model: Any) -> nn.Module:
    """G-Freeze at the original size: old and new weights averaged by the share they carry.

    W = (1-s)·W_old + s·W_new is the first-order approximation of the output average
    (1-s)·MLP_old(x) + s·MLP_new(x) that the grown layer computes. Not exact: measure what it costs.

    Raises:
        ValueError: the adapter trains columns alone (G-Train folds exactly), s is 0, or heads are wider.
    """
    for name, layer, adapter in _one_adapter_each(model):
        growth = layer.growth[adapter]
        if growth.trainable == "columns" or not growth.new_share:
            raise ValueError(f"{name}: there is no average to take; use the form folded or grown")
        share = growth.new_share
        for which, old, new in _old_and_new(layer, adapter):
            if isinstance(layer, GrownRows):  # new rows carry s already
                copies = new.split(layer.in_features, dim=1) if new.ndim == 2 else [new]
                _set(layer, which, (1 - share) * old.float() + sum(copies))
            else:
                copies = new.split(layer.out_features)
                _set(layer, which, (1 - share) * old.float() + share * sum(copies) / len(copies))
    return model.unload()


def _one_adapter_each(model: Any) -> Iterator[tuple[str, GrownLinear, str]]:
    """The grown layers, unmerged, each with the one active adapter that it has."""
    if has_wider_heads(model):
        raise ValueError(
            "its heads are wider, and old and new parts of a head meet in one softmax, so they neither "
            "fold nor average; use the form grown"
        )
    _require_floats(_grown(model))
    for name, layer in _grown(model):
        layer.unmerge()
        if len(names := layer.active_here()) > 1:
            raise ValueError(
                f"{name}: {', '.join(names)} are active; one adapter folds or is averaged at a time"
            )
        yield from ((name, layer, adapter) for adapter in names)


def _grown(model: Any) -> Iterator[tuple[str, GrownLinear]]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return ((name, m) for name, m in inner.named_modules() if isinstance(m, GrownLinear))


def _require_floats(layers: Iterable[tuple[str, GrownLinear]]) -> None:
    if name := next((name for name, layer in layers if layer.quantization_backend), None):
        raise ValueError(
            f"{name}: its base is quantised, and no quantised checkpoint holds what has grown in floats; "
            "put the adapter on the model as it was before it was quantised"
        )


def _has_all(config: Any, names: tuple[str, ...]) -> bool:
    return bool(names) and all(hasattr(config, name) for name in names)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _without_numbers(name: str) -> str:
    return re.sub(r"\.\d+\.", ".", f".{name}")


def _old_and_new(layer: GrownLinear, adapter: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The base's weight, (out, in), and its bias if it has one, by name, with the adapter's own in fp32."""
    weight, bias = layer.own_parameters(adapter, torch.float32)
    yield "weight", layer.base_weight, weight
    if bias is not None:
        yield "bias", layer.get_base_layer().bias, bias


def _set(layer: GrownLinear, which: str, value: Tensor) -> None:
    base = layer.get_base_layer()
    flipped = isinstance(base, Conv1D) and which == "weight"
    getattr(base, which).data = value.T.contiguous() if flipped else value


def _one_of_equal(tensor: Tensor, size: int, name: str) -> Tensor:
    first, *others = tensor.split(size)
    apart = max(float((first - other).abs().max()) for other in others)
    if not apart <= SAME * float(first.abs().max()):
        raise ValueError(
            f"{name}: the copies differ by up to {apart:.1g}, so they do not fold; use the form grown"
        )
    return first
