"""What every source of a model's weights has in common."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdo_cli.models.loading import Loaded
from gdo_cli.support.files import PACKAGE
from gdo_cli.support.identity import NOT_IDENTITY

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ModelSource:
    """Base of all sources.

    Attributes:
        lr: learning rate that this model learns SciTail with at little cost (see its YAML).
        warmup_steps: its warm-up.
    """

    lr: float = field(metadata=NOT_IDENTITY)  # train.lr is what counts; these are its defaults
    warmup_steps: int = field(metadata=NOT_IDENTITY)

    def load(self) -> Loaded:
        """Return the model and its tokenizer.

        Raises:
            UserError: weights that cannot be had or are not whole, with the way to mend it.
        """
        raise NotImplementedError

    def shape(self, name: str) -> dict[str, Any] | None:
        """Return the architecture as transformers describes it, where it is known without the weights.

        Args:
            name: the option by which the model was chosen.
        """
        return read_shape(ARCHITECTURES / f"{name}.json")

    def depth(self, name: str) -> int | None:
        """Return the number of decoder layers, where it is known without the weights."""
        shape = self.shape(name) or {}
        n = shape.get("text_config", shape).get("num_hidden_layers")
        return n if isinstance(n, int) else None


def read_shape(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # what is wrong with it, loading will say
    return content if isinstance(content, dict) else None


ARCHITECTURES = PACKAGE / "models" / "architectures"
