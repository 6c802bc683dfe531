"""Any PEFT tuner as a baseline, by YAML alone."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.methods.base import Method, add_adapter
from gdo_cli.support.console import warn
from gdo_cli.support.errors import UserError, first_line, require_one_of

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PEFTAdapter(Method):
    """A tuner of the PEFT library that changes weights; those that learn a prompt are refused.

    Attributes:
        name: its name in figures.
        peft_type: PEFT's own name for it: LORA, OFT, IA3, LN_TUNING, …
        options: fields of its configuration class. A list of target_modules means modules of the text
            decoder.
        layers: ``all``, a number, or a list of indices.
        bitwise: whether its start is exactly the base (LoRA adds zeros; DoRA divides by a norm).
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.peft.PEFTAdapter"
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
        import torch
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
        from peft.utils import PeftType

        configs = {str(kind.value): PEFT_TYPE_TO_CONFIG_MAPPING[kind] for kind in PeftType}
        require_one_of("method.peft_type", self.peft_type, configs)
        if self.peft_type == "SHIRA":  # its masks are sparse; torch warns unless one has chosen
            torch.sparse.check_sparse_tensor_invariants.disable()
        targets = self.options.get("target_modules")
        try:
            adapter = configs[self.peft_type](task_type="CAUSAL_LM", **self.options)
            if adapter.is_prompt_learning:
                raise ValueError(f"{self.peft_type} learns a prompt; gdo trains weights")
            if hasattr(adapter, "n_tasks"):
                raise ValueError(
                    f"{self.peft_type} asks for the number of a task with each row; gdo has one task"
                )
            if getattr(adapter, "layers_to_transform", None) is not None:
                raise ValueError("layers_to_transform: write layers=… instead")
            if isinstance(targets, list):
                adapter.target_modules = _in_decoder(model, layers, targets)
            elif layers is not None:
                raise ValueError(f"layers={layers} needs a list of names as target_modules")
            with warnings.catch_warnings():
                # PEFT asks norms for their in_features, which it does not use.
                warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
                warnings.filterwarnings("ignore", "Model has `tie_word_embeddings", UserWarning)  # refused
                adapted = _with_plain_vocabulary(model, adapter)
            if hasattr(adapted.base_model, "update_and_allocate"):
                raise ValueError(f"{self.peft_type} moves its ranks after each step, which gdo does not")
            return adapted
        except (ImportError, TypeError, ValueError) as error:
            raise UserError(f"method={self.name}: its options do not work: {first_line(error)}") from error


def _with_plain_vocabulary(model: PreTrainedModel, adapter: PeftConfig) -> PreTrainedModel:
    """The adapted model, whose embedding and head :mod:`gdo_cli.lm.lm_head` reads past any wrapper."""
    plain = model.get_input_embeddings(), model.get_output_embeddings()
    adapted = add_adapter(model, adapter)
    if (adapted.get_input_embeddings(), adapted.get_output_embeddings()) != plain:
        raise ValueError("it changes the embedding or the head; adapt modules of the decoder's layers")
    return adapted


def _in_decoder(model: PreTrainedModel, layers: list[int] | None, names: list[Any]) -> str:
    """One pattern for the modules of these names in the chosen layers, or in all of the text decoder.

    PEFT's own layers_to_transform is unknown to some tuners, and counts a vision tower's layers too.
    """
    from gdo_cli.lm.decoder import find_decoder

    stack = find_decoder(model).name
    decoder = stack.rpartition(".")[0]
    where = [decoder] if layers is None else [f"{stack}.{index}" for index in layers]
    absent = []
    for name in map(str, names):
        found = [f"{path}." for path, _ in model.named_modules() if f".{path}".endswith(f".{name}")]
        if found and not any(path.startswith(f"{decoder}.") for path in found):
            raise ValueError(f"target_modules: {name} is not in the text decoder")
        if not any(path.startswith(f"{place}.") for path in found for place in where):
            absent.append(name)
    if len(absent) == len(names):
        raise ValueError(f"target_modules: nothing here is called {' or '.join(absent)}")
    if absent and model.device.type != "meta":  # a plan would say it for nothing
        warn(f"target_modules: nothing here is called {', '.join(absent)}, so only the others are adapted")
    return rf"({_any_of(where)})\.(.*\.)?({_any_of(names)})"


def _any_of(words: list[Any]) -> str:
    return "|".join(re.escape(str(word)) for word in words)
