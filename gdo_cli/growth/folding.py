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

from gdo_cli.growth.grown import GrownLayer
from gdo_cli.growth.layer import GrownRows
from gdo_cli.growth.stock_heads import has_wider_heads, to_stock_heads
from gdo_cli.lm.decoder import find_decoder, layer_index
from gdo_cli.lm.projections import ATTENTION_COLUMN_NAMES, ATTENTION_ROW_NAMES

FORMS = ("grown", "folded", "averaged")
# What a configuration calls the width of its MLPs; BART has one for the encoder and one for the decoder.
WIDTHS = (
    *("intermediate_size_mlp", "intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size"),
    *("moe_intermediate_size", "shared_expert_intermediate_size"),
)
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
        layers: the grown layers by their full names.
    """

    k: int
    like: dict[str, GrownLayer]
    widths: tuple[str, ...]
    attention: bool
    layers: dict[str, GrownLayer]

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
        found = cls(factors.pop(), like, (), bool(heads), grown)
        mlps = [name for name in grown if name not in heads]
        return found._with_widths(model, mlps) if mlps else found

    def _with_widths(self, model: Any, mlps: list[str]) -> Widening:
        """The same with what the configuration calls the width of the grown MLPs: that which decides it.

        Experts, those that are shared and dense layers may each have a word of their own.
        """
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = inner.config.get_text_config()
        parts = [part for part in ("encoder", "decoder") if any(f"{part}." in name for name in mlps)]
        candidates = [*((name,) for name in WIDTHS), tuple(f"{part}_ffn_dim" for part in parts)]
        known = [names for names in candidates if _has_all(config, names)]
        found, left = self, set(mlps)
        for names in known:
            if not left:
                break
            one = replace(self, widths=names)
            stock = one._stock(inner)
            if fitting := {name for name in left if one._fits(name, stock)}:
                found, left = replace(found, widths=(*found.widths, *names)), left - fitting
        if left:
            first = next(name for name in mlps if name in left)
            told = f"; {', '.join(name for names in known for name in names)} is not it" if known else ""
            raise ValueError(f"this architecture's configuration does not say how wide {first} is{told}")
        found._require_nothing_else(inner)
        return found

    def _stock(self, inner: Any) -> Any:
        """A model without weights of the configuration with these widths."""
        config = copy.deepcopy(inner.config)
        self._set_widths(config.get_text_config())
        with torch.device("meta"):
            return type(inner)(config)

    def _fits(self, name: str, stock: Any) -> bool:
        return self.layers[name].is_width_of(stock.get_submodule(name), self.k)

    def _require_nothing_else(self, inner: Any) -> None:
        """A width may also be that of something that stays as it is."""
        stock = {name: p.shape for name, p in self._stock(inner).named_parameters()}
        for name, parameter in inner.named_parameters():
            module = name.rpartition(".")[0].removesuffix(".base_layer")
            if ".grow." in name or _without_numbers(module) in self.like or name not in stock:
                continue
            if stock[name] != parameter.shape:
                raise ValueError(
                    f"{' and '.join(self.widths)} decides the width of {module}, too, which did not grow"
                )

    def _set_widths(self, config: Any) -> None:
        """Some leave it out where it is four times the model's own."""
        usual = max((one.in_features for one in self.like.values() if isinstance(one, GrownRows)), default=0)
        indices = {layer_index(f".{name}") for name in self.layers}
        for name in self.widths:
            now = getattr(config, name)
            if isinstance(now, list):  # one for each layer, so the others stay as they are
                wide: Any = [self.k * n if index in indices else n for index, n in enumerate(now)]
            else:
                wide = self.k * (now or usual)
            setattr(config, name, wide)

    @torch.no_grad()
    def apply(self, plain: Any) -> Any:
        """Return the merged model, every other layer like the grown ones padded to their width."""
        config = plain.config.get_text_config()
        by_layer = any(isinstance(getattr(config, name), list) for name in self.widths)
        for name, layer in list(plain.named_modules()):
            one = self.like.get(_without_numbers(name))
            if one is not None and name not in self.layers and not by_layer:
                plain.set_submodule(name, one.padded(layer, self.k))
        self._set_widths(config)
        if self.attention:
            layers: Any = find_decoder(plain).layers
            config.head_dim = layers[0].self_attn.head_dim  # some derive it from the number of heads
            config.num_attention_heads *= self.k
            config.num_key_value_heads *= self.k
            config.validate_architecture()  # some want a hidden size that the number of heads divides
        return plain


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
        if not isinstance(layer, GrownRows):  # which have nothing of their own then
            for which, _, copies in layer.copies_by_parameter(adapter):
                layer.set_base(which, _one_of_equal(copies, name))
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
        for which, old, copies in layer.copies_by_parameter(adapter):
            factor = 1.0 if layer.is_row(which) else share / len(copies)  # new rows carry s already
            layer.set_base(which, (1 - share) * old.float() + factor * sum(copies))
    return model.unload()


def _one_adapter_each(model: Any) -> Iterator[tuple[str, GrownLayer, str]]:
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


def _grown(model: Any) -> Iterator[tuple[str, GrownLayer]]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return ((name, m) for name, m in inner.named_modules() if isinstance(m, GrownLayer))


def _require_floats(layers: Iterable[tuple[str, GrownLayer]]) -> None:
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


def _one_of_equal(copies: list[Tensor], name: str) -> Tensor:
    first, *others = copies
    apart = max(float((first - other).abs().max()) for other in others)
    if not apart <= SAME * float(first.abs().max()):
        raise ValueError(
            f"{name}: the copies differ by up to {apart:.1g}, so they do not fold; use the form grown"
        )
    return first
