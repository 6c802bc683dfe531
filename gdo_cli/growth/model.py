"""The growth tuner: ``get_peft_model(model, GrowConfig())`` and all that PEFT does from there."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTuner, check_adapters_to_merge
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gdo_cli.growth.config import GrowConfig
from gdo_cli.growth.experts import GrownExperts
from gdo_cli.growth.folding import Widening
from gdo_cli.growth.grown import GrownLayer
from gdo_cli.growth.layer import GrownColumns, GrownLinear, GrownRows
from gdo_cli.growth.linear import shape_of
from gdo_cli.growth.probe import require_same_function
from gdo_cli.lm.decoder import attention_projections, grown_mlps
from gdo_cli.lm.experts import experts_of
from gdo_cli.lm.pairs import find_pairs
from gdo_cli.lm.projections import ATTENTION_ROW_NAMES, ROW_NAMES

ALL_LINEAR = "all-linear"
OLD_NAMES = "an adapter file of an earlier gdo: save it again; the next version does not read it"


class GrowModel(BaseTuner):
    """Grows the MLPs of a pre-trained decoder without changing what it computes.

    >>> model = get_peft_model(model, GrowConfig(layers_to_transform=[3, 7], k=2))
    """

    prefix: str = "grow"
    tuner_layer_cls = GrownLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Grow the model, and see that it computes what it did.

        Raises:
            ValueError: a layer that cannot grow, columns and rows that are no pairs, or an MLP that does
                more between them than it can do copy by copy.
        """
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        try:
            if config.init_weights:
                require_same_function(model, adapter_name)
        except ValueError:
            if len(self.peft_config) > 1:
                self.delete_adapter(adapter_name)  # others stay as they are
            else:
                self._unload_and_optionally_merge(merge=False, progressbar=False)
            raise

    def _prepare_adapter_config(self, peft_config: GrowConfig, model_config: Any) -> GrowConfig:
        """Return a copy that names all that is to grow; full names keep a vision tower out of it.

        The user's own object may be used for other models, so it stays as it is.
        """
        found = self._named(peft_config)
        named = replace(
            peft_config,
            target_modules=[name for names in found for name in names],
            layers_to_transform=None,
            layers_pattern=None,
        )
        columns, rows, experts = (
            [name for name in names if self._check_target_module_exists(named, name)] for names in found
        )
        if not columns + rows + experts:
            return replace(peft_config, row_modules=[])  # PEFT says that nothing is found
        self._projections = _count_projections(self.model, columns, rows)
        return replace(named, target_modules=columns + rows + experts, row_modules=rows)

    def _named(self, config: GrowConfig) -> tuple[list[str], list[str], list[str]]:
        """The columns, rows and modules of experts that a configuration names, by their full names."""
        if config.target_modules is None:
            layers = config.layers_to_transform
            return grown_mlps(self.model, [layers] if isinstance(layers, int) else layers)
        if isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR:
            mlp, attention = grown_mlps(self.model), attention_projections(self.model)
            return mlp[0] + attention[0], mlp[1] + attention[1], mlp[2]
        names = [
            name
            for name, _ in self.model.named_modules()
            if ".base_layer" not in name and ".grow" not in name
        ]
        found = [name for name in names if self._check_target_module_exists(config, name)]
        ends = tuple(f".{name}" for name in config.row_modules or ROW_NAMES + ATTENTION_ROW_NAMES)
        rows = [name for name in found if f".{name}".endswith(ends)]
        experts = [name for name in found if self._holds_experts(name)]
        return [name for name in found if name not in rows + experts], rows, experts

    def _holds_experts(self, name: str) -> bool:
        module = self.model.get_submodule(name)
        return experts_of(getattr(module, "base_layer", module)) is not None

    def _create_and_replace(
        self,
        peft_config: GrowConfig,
        adapter_name: str,
        target: Any,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        is_row = current_key in (peft_config.row_modules or ())
        if isinstance(target, GrownLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if experts_of(target):
            grown: GrownLayer = GrownExperts(target, adapter_name, peft_config)
        elif is_row:
            grown = GrownRows(target, adapter_name, peft_config)
        else:
            grown = GrownColumns(target, adapter_name, peft_config, self._projections[current_key])
        self._replace_module(parent, target_name, grown, target)

    def _replace_module(self, parent: Any, child_name: str, new_module: Any, child: Any) -> None:
        if isinstance(child, GrownExperts):  # PEFT would move over a weight, of which they have several
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        self._check_finite(adapter_names, safe_merge)
        super().merge_adapter(adapter_names, safe_merge)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """Return the base architecture with the merged layers, whose configuration says how wide it is now.

        Layers that did not grow are padded with zeros. Where no configuration can say it, a warning does.
        """
        self._check_finite(adapter_names, safe_merge)
        widening: Widening | None = None
        if hasattr(self.model, "config"):
            try:
                widening = Widening.of(self.model, adapter_names)
            except ValueError as error:
                warnings.warn(f"save_pretrained will write what cannot be loaded: {error}", stacklevel=2)
        plain: nn.Module = super().merge_and_unload(progressbar, safe_merge, adapter_names)
        return widening.apply(plain) if widening else plain

    def _check_finite(self, adapter_names: list[str] | None, safe_merge: bool) -> None:
        """All layers are looked at before any is changed."""
        for layer in self.model.modules():
            if safe_merge and isinstance(layer, GrownLayer):
                names = check_adapters_to_merge(layer, adapter_names)
                if here := [name for name in names if name in layer.growth]:
                    layer.checked_wide(here, safe=True)

    @torch.no_grad()
    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "cat"
    ) -> None:
        """Add one adapter that does what several do together: y = base + Σ_i w_i·(y_i − base), exactly.

        Its copies are theirs, side by side ("cat").

        Raises:
            ValueError: adapters that do not stand on the same layers, or shares of the output that do not
                add up to one from 0 to 1.
        """
        layers = [m for m in self.model.modules() if isinstance(m, GrownLayer)]
        if combination_type != "cat":
            raise ValueError(f"combination_type={combination_type!r}: copies stand side by side: use 'cat'")
        if any({*adapters} & {*layer.growth} not in (set(), {*adapters}) for layer in layers):
            raise ValueError(f"{', '.join(adapters)}: adapters on different layers cannot be one")
        first = next((m for m in layers if adapters[0] in m.growth), None)
        if first is None or len(adapters) != len(weights):
            raise ValueError(f"{adapters}, {weights}: name adapters that exist, each with its weight")
        share = sum(w * first.share_of(name) for w, name in zip(weights, adapters, strict=True))
        k = 1 + sum(first.copies(name) for name in adapters)
        self.peft_config[adapter_name] = replace(
            self.peft_config[adapters[0]], k=k, share=share, trainable="new", init_columns="copy"
        )
        self.inject_adapter(self.model, adapter_name)
        for layer in layers:
            if adapters[0] in layer.growth:
                layer.join(adapters, weights, adapter_name)
                layer.set_adapter(layer.active_adapters)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: GrowConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Read earlier files, too, in which parameters were called ``grow_weight`` and ``grow_bias``."""
        old = [key for key in state_dict if key.endswith((".grow_weight", ".grow_bias"))]
        if old:
            warnings.warn(OLD_NAMES, FutureWarning, stacklevel=2)
        renamed = {k.replace(".grow_", ".grow.") if k in old else k: v for k, v in state_dict.items()}
        found: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, renamed
        )
        return found


def _count_projections(model: nn.Module, columns: list[str], rows: list[str]) -> dict[str, int]:
    """Return how many projections each column holds, that its row can read: two where gate and up are one.

    Raises:
        ValueError: columns or rows without the other, or layers that are not plain or do not fit.
    """
    for name in columns + rows:
        _require_plain(name, model.get_submodule(name), name in rows)
    found = {}
    for pair in find_pairs(columns, rows):
        width = shape_of(_linear(model.get_submodule(pair.row)))[1]
        for name in pair.columns:
            out = shape_of(_linear(model.get_submodule(name)))[0]
            if out % width and width % out:
                raise ValueError(f"{name} gives {out} numbers, of which {pair.row} reads {width}")
            found[name] = max(1, out // width)
    return found


def _require_plain(name: str, layer: nn.Module, is_row: bool) -> None:
    if isinstance(layer, GrownLinear):
        if isinstance(layer, GrownRows) != is_row:
            raise ValueError(f"{name} has grown as a {'column' if is_row else 'row'} for another adapter")
        return
    kind, weight = type(layer), getattr(layer, "weight", None)
    is_float = isinstance(weight, Tensor) and weight.is_floating_point()
    if is_float and isinstance(layer, nn.Linear | Conv1D) and not _is_torchao(weight):
        return  # whether its forward is its own, the probe finds out
    if hasattr(layer, "in_features") and (not is_float or _is_torchao(weight)):
        backend = None if _is_torchao(weight) else resolve_quantization_backend(layer)
        if backend is not None and backend.supports_merge:
            return  # its numbers can be had as floats, which the copies are
        raise ValueError(
            f"{name} is a quantised {kind.__name__}: beside bitsandbytes and HQQ alone float "
            "weights can grow; load the MLPs unquantised (modules_to_not_convert=[…])"
        )
    raise ValueError(f"{name} is a {kind.__name__}: only nn.Linear and Conv1D can grow")


def _is_torchao(weight: Any) -> bool:
    return type(weight.data).__module__.startswith("torchao")


def _linear(layer: nn.Module) -> Any:
    return layer.get_base_layer() if isinstance(layer, GrownLinear) else layer
