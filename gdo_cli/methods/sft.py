"""Full fine-tuning: the baseline that overwrites."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from gdo_cli.methods.base import Method
from gdo_cli.support.errors import require_one_of
from gdo_cli.support.identity import IF_SET

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRAINED, FROZEN = "trained", "frozen"


@dataclass(frozen=True)
class SFT(Method):
    """Train every parameter of the decoder, embeddings included (paper, section 4: "SFT").

    Attributes:
        norms: ``trained`` or ``frozen``: gains and biases of all norms, those of queries and keys included.
        embeddings: ``trained`` or ``frozen``: the tables of tokens and of learnt positions, and the head,
            which in most small models is the table of tokens itself.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.sft.SFT"
    norms: str = field(default=TRAINED, metadata=IF_SET, kw_only=True)
    embeddings: str = field(default=TRAINED, metadata=IF_SET, kw_only=True)
    label: ClassVar[str] = "SFT"

    def __post_init__(self) -> None:
        require_one_of("method.norms", self.norms, (TRAINED, FROZEN))
        require_one_of("method.embeddings", self.embeddings, (TRAINED, FROZEN))

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from gdo_cli.lm.decoder import embedding_parameters, norm_parameters, text_decoder

        model.requires_grad_(False)
        decoder, head = text_decoder(model), model.get_output_embeddings()
        decoder.requires_grad_(True)
        head.requires_grad_(True)
        frozen = norm_parameters(decoder) if self.norms == FROZEN else []
        frozen += [*embedding_parameters(decoder), *head.parameters()] if self.embeddings == FROZEN else []
        for parameter in frozen:
            parameter.requires_grad_(False)
        return model
