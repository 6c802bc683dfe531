"""Full fine-tuning: the baseline that overwrites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gdo_cli.methods.base import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SFT(Method):
    """Train every parameter of the decoder, embeddings included (paper, section 4: "SFT")."""

    identity_name: ClassVar[str] = "gdo_cli.methods.sft.SFT"
    label: ClassVar[str] = "SFT"

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        model.requires_grad_(False)
        model.get_decoder().requires_grad_(True)
        model.get_output_embeddings().requires_grad_(True)
        return model
