"""The paper's two methods: copy the MLP, scale the down-projection, train a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.errors import require
from gdo_cli.methods import Method, add_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Grow(Method):
    """Attributes:
    layers: which MLPs grow: ``all``, a number, or a list of indices.
    k: copies in the grown MLP, the original included.
    """

    layers: Any = "all"
    k: int = 2
    trainable: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.k >= 2, f"method.k={self.k}: growing needs at least 2 copies")

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from gdo_cli.growth import GrowConfig

        grow = GrowConfig(
            task_type="CAUSAL_LM", layers_to_transform=layers, k=self.k, trainable=self.trainable
        )
        return add_adapter(model, grow)

    def exact(self) -> bool:
        return self.k == 2  # 1/3 is not a binary fraction


@dataclass(frozen=True)
class GFreeze(_Grow):
    """Train the new weights alone: new gate, up and down (section 3, "G-Freeze").

    The grown layer is ½·MLP(x) + ½·MLP'(x) with MLP frozen and MLP' a fully tuned copy.
    """

    label: ClassVar[str] = "G-Freeze"
    trainable: ClassVar[str] = "new"


@dataclass(frozen=True)
class GTrain(_Grow):
    """Train all copies of gate and up; the down-projection stays frozen (section 3, "G-Train").

    The copies start equal and receive equal gradients, so this trains the ungrown gate and up
    (tests/test_equivalences.py) and folds back to the original size.
    """

    label: ClassVar[str] = "G-Train"
    trainable: ClassVar[str] = "columns"
