"""The controls: the same matrices trained in place, without growth; and nothing trained at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.errors import require_one_of
from gdo_cli.methods import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LABELS = {"mlp": "MLP only", "up": "Gate and up only", "attention": "Attention only"}


@dataclass(frozen=True)
class Partial(Method):
    """Train one part of every chosen layer in place.

    ``up`` is G-Train without growth (they are equivalent); ``mlp`` trains what G-Freeze copies.

    Attributes:
        part: ``mlp`` (gate, up, down), ``up`` (gate, up) or ``attention`` (q, k, v, o).
        layers: ``all``, a number, or a list of indices.
    """

    part: str = "mlp"
    layers: Any = "all"

    def __post_init__(self) -> None:
        require_one_of("method.part", self.part, _LABELS)

    @property
    def label(self) -> str:  # type: ignore[override]
        return _LABELS[self.part]

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from gdo_cli.growth.architecture import attention_projections, mlp_projections

        find = attention_projections if self.part == "attention" else mlp_projections
        columns, rows = find(model, layers)
        model.requires_grad_(False)
        for name in columns if self.part == "up" else columns + rows:
            model.get_submodule(name).requires_grad_(True)
        return model


@dataclass(frozen=True)
class Frozen(Method):
    """The untouched model: nothing is trained, it is only measured."""

    label: ClassVar[str] = "Untouched"
    trains: ClassVar[bool] = False

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        return model.requires_grad_(False)
