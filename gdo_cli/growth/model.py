"""The growth tuner: ``get_peft_model(model, GrowConfig())`` and all that PEFT does from there."""

from __future__ import annotations

from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from gdo_cli.growth.config import GrowConfig
from gdo_cli.growth.layer import GrownColumns, GrownLinear, GrownRows
from gdo_cli.lm.decoder import mlp_projections


class GrowModel(BaseTuner):
    """Grows the MLPs of a pre-trained decoder without changing what it computes.

    >>> model = get_peft_model(model, GrowConfig(layers_to_transform=[3, 7], k=2))
    """

    prefix: str = "grow_"
    tuner_layer_cls = GrownLinear
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _prepare_adapter_config(self, peft_config: GrowConfig, model_config: Any) -> GrowConfig:
        """Name the MLPs where the user did not; full names keep a vision tower out of it."""
        if peft_config.target_modules is None:
            columns, rows = mlp_projections(self.model, peft_config.layers_to_transform)
            peft_config.target_modules = columns + rows
            peft_config.row_modules = rows
        return peft_config

    def _create_and_replace(
        self,
        peft_config: GrowConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, GrownLinear):
            target.update_layer(adapter_name, peft_config)
            return
        if not isinstance(target, nn.Linear):
            raise ValueError(f"{current_key} is a {type(target).__name__}: only nn.Linear can grow")
        assert peft_config.row_modules is not None
        ends = tuple(f".{name}" for name in peft_config.row_modules)
        is_row = f".{current_key}".endswith(ends)
        place = f".{current_key}".removesuffix(target_name)
        reading = (m for n, m in parent.named_children() if f"{place}{n}".endswith(ends))
        if not is_row and any(target.out_features > getattr(m, "in_features", 0) for m in reading):
            raise ValueError(
                f"{current_key} gives more than is read: it holds several projections (gate and up, say) as "
                "one, whose copies would mix"
            )
        grown = (GrownRows if is_row else GrownColumns)(target, adapter_name, peft_config)
        self._replace_module(parent, target_name, grown, target)
