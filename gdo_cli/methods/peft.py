"""Any PEFT tuner as a baseline, by YAML alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gdo_cli.errors import UserError, require_one_of
from gdo_cli.methods import Method, add_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PEFTAdapter(Method):
    """A tuner of the PEFT library.

    Attributes:
        name: its name in figures.
        peft_type: PEFT's own name for it: LORA, OFT, IA3, LN_TUNING, …
        options: fields of its configuration class.
        layers: ``all``, a number, or a list of indices.
        bitwise: whether its start is exactly the base (LoRA adds zeros; a rotation rounds).
    """

    name: str = "LoRA"
    peft_type: str = "LORA"
    options: dict[str, Any] = field(default_factory=dict)
    layers: Any = "all"
    bitwise: bool = False

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.name

    def exact(self) -> bool:
        return self.bitwise

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from peft import PeftType
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        require_one_of("method.peft_type", self.peft_type, [str(t.value) for t in PeftType])
        options = dict(self.options)
        if layers is not None:
            options["layers_to_transform"] = layers
        try:
            adapter = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.peft_type)](task_type="CAUSAL_LM", **options)
            return add_adapter(model, adapter)
        except (TypeError, ValueError) as error:
            raise UserError(f"method={self.name}: PEFT refuses its options: {error}") from error
