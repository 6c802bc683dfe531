"""The controls: the same matrices trained in place, without growth; and nothing trained at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.methods.base import Method
from gdo_cli.support.errors import UserError, require, require_one_of
from gdo_cli.support.identity import IF_SET

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gdo_cli.tasks.base import Task
    from gdo_cli.training.config import TrainConfig

_LABELS = {
    "mlp": "MLP only",
    "up": "Gate and up only",
    "attention": "Attention only",
    "all": "Whole layers",
}


@dataclass(frozen=True)
class Partial(Method):
    """Train one part of every chosen layer in place.

    ``up`` is G-Train without growth (they are equivalent); ``mlp`` trains what G-Freeze copies.

    Attributes:
        part: ``mlp`` (gate, up, down), ``up`` (gate, up), ``attention`` (q, k, v, o) or ``all`` of a layer.
        layers: ``all``, a number, or a list of indices.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.partial.Partial"
    part: str = "mlp"
    layers: Any = "all"

    def __post_init__(self) -> None:
        require_one_of("method.part", self.part, _LABELS)

    @property
    def label(self) -> str:  # type: ignore[override]
        return _LABELS[self.part]

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from gdo_cli.lm.decoder import attention_projections, find_decoder, mlp_projections

        model.requires_grad_(False)
        if self.part == "all":
            stack = find_decoder(model).layers
            for index in range(len(stack)) if layers is None else layers:
                stack[index].requires_grad_(True)
            return model
        find = attention_projections if self.part == "attention" else mlp_projections
        columns, rows = find(model, layers)
        for name in columns if self.part == "up" else columns + rows:
            model.get_submodule(name).requires_grad_(True)
        return model


@dataclass(frozen=True)
class Frozen(Method):
    """The untouched model: nothing is trained, it is only measured.

    Attributes:
        shots: solved training examples in front of every prompt of the task, always the same ones.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.partial.Frozen"
    shots: int = field(default=0, metadata=IF_SET)  # type: ignore[misc]
    trains: ClassVar[bool] = False

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"Untouched, {self.shots}-shot" if self.shots else "Untouched"

    def check(self, task: Task, train: TrainConfig) -> None:
        require(self.shots >= 0, f"method.shots={self.shots}: must not be negative")
        if self.shots and task.multiline:
            raise UserError(
                f"method.shots={self.shots}: the answers of {type(task).__name__} have several "
                "lines, whose end few examples do not teach; use method.shots=0"
            )

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        return model.requires_grad_(False)
