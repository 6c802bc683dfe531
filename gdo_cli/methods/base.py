"""A method says which structure is added to the model and which parameters train.

To add one: a dataclass of its hyper-parameters here, and a YAML that names it under conf/method.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.support.errors import UserError

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from gdo_cli.lm.answer_lm import AnswerLM
    from gdo_cli.lm.tokens import Encoded
    from gdo_cli.tasks.base import Task
    from gdo_cli.training.config import TrainConfig
    from gdo_cli.training.penalties import Penalty


@dataclass(frozen=True)
class Method:
    """Base of all methods.

    Attributes:
        label: the name in figures and tables.
        preserves: whether the prepared model must compute exactly what the base computes.
        trains: whether there is anything to train.
        shots: solved examples in front of every prompt of the task.
    """

    label: ClassVar[str]
    preserves: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    shots: ClassVar[int] = 0

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        """Add what the method adds and leave ``requires_grad`` on exactly what trains.

        Args:
            model: the pre-trained model; it may be changed in place.
            layers: decoder layers to work on; None for all.
        """
        raise NotImplementedError

    def exact(self) -> bool:
        """Return whether the preserved function must be equal bit for bit, not only up to rounding."""
        return True

    def starts_as_base(self) -> bool:
        """Return whether what is measured before the first step is the base itself, to the bit."""
        return self.preserves and self.exact()

    def check(self, task: Task, train: TrainConfig) -> None:
        """Refuse, before anything is loaded, a task or a training that this method does not go with.

        Raises:
            UserError: with the reason.
        """

    def penalty(self, lm: AnswerLM, replay: list[Encoded], seed: int) -> Penalty | None:
        """Return what is added to the loss, called on the prepared model before its first step.

        Args:
            replay: texts of the method's ``dataset``, if it has one.
        """
        return None


def add_adapter(model: PreTrainedModel, adapter: PeftConfig) -> PreTrainedModel:
    """Return the model with a PEFT adapter, which alone trains."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        # PEFT 0.21 reads a property that transformers 5.23 has renamed; nothing a user could mend.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        return get_peft_model(model, adapter)


def layer_indices(choice: Any, n_layers: int | None) -> list[int] | None:
    """Return the decoder layers of an explicit choice: None for ``all``, else sorted indices.

    A *number* of layers is no explicit choice: which ones is decided by a rule (see
    :mod:`gdo_cli.experiment.layers`).

    Args:
        n_layers: of the model; None where that is not known.
    Raises:
        UserError: not a choice at all, or an index out of range.
    """
    if choice == "all":
        return None
    if isinstance(choice, list) and choice and all(type(item) is int and item >= 0 for item in choice):
        if n_layers is not None and max(choice) >= n_layers:
            outside = next(i for i in choice if i >= n_layers)
            raise UserError(f"layers={choice}: no layer {outside}; the model has layers 0 to {n_layers - 1}")
        if len(set(choice)) != len(choice):
            raise UserError(f"layers={choice}: a layer is named twice")
        return sorted(choice)
    quoted = " (without quotes)" if isinstance(choice, str) and choice.strip()[:1] in ("[", "'", '"') else ""
    raise UserError(f"layers={choice}: give all, a number of layers, or a list such as [0,5,11]{quoted}")
