"""What to grow, and which of it trains: the PEFT configuration of the growth tuner."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.config import PeftConfig
from peft.utils import CONFIG_NAME, PeftType

TRAINABLE = ("new", "columns")
INIT_COLUMNS = ("copy", "random", "zero")
TYPE_IN_FILES = "GROW: import gdo_cli.growth before this adapter is loaded (pip install gdo-cli)"


@dataclass
class GrowConfig(PeftConfig):
    """Function-preserving growth of linear layers (*Grow, Don't Overwrite*, section 3).

    The up-projections ("columns": gate and up in a gated MLP) are copied ``k`` times; the
    down-projection ("rows") reads all the copies, each scaled by ``1/k``, so that the grown model
    computes what the base computes.

    Attributes:
        target_modules: names of the linear layers to grow, columns and rows alike, matched as PEFT
            matches them; ``"all-linear"`` for MLPs and attention. Left out, the MLPs of the decoder are
            found by their usual names.
        row_modules: which of the targets are down-projections (compare IA³'s
            ``feedforward_modules``); left out, those with a usual name of one.
        exclude_modules: names never to grow.
        layers_to_transform: indices of the decoder layers to grow, or one; left out, all of them.
        layers_pattern: name of the list that holds the layers, where PEFT cannot guess it.
        modules_to_save: other modules that train and are saved, such as a classification head.
        init_weights: False for random new weights, which change the function (for tests).
        k: number of copies in the grown layer, the original included; at least 2.
        trainable: ``"new"`` trains the new weights alone (G-Freeze); ``"columns"`` trains all k
            copies of the up-projections and leaves every row frozen (G-Train).
        share: how much of the output the new copies carry at the start; None for the paper's
            (k-1)/k, an even share each. The old copy carries the rest. 0 is zero initialisation.
        init_columns: the new up-projections at the start: ``"copy"``, ``"random"`` (normal, with the
            original's standard deviation) or ``"zero"``. Only share=0 keeps the function with the
            last two.
    """

    target_modules: list[str] | set[str] | str | None = None
    row_modules: list[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    init_weights: bool = True
    k: int = 2
    trainable: str = "new"
    share: float | None = None
    init_columns: str = "copy"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.GROW
        for name, allowed in (("trainable", TRAINABLE), ("init_columns", INIT_COLUMNS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
        if self.k < 2:
            raise ValueError(f"k={self.k}: growing needs at least 2 copies")
        if self.share is not None and not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share}: the new copies carry a share from 0 to 1")
        if self.trainable == "columns" and (self.share is not None or self.init_columns != "copy"):
            raise ValueError("trainable='columns' works on even copies: leave share and init_columns out")
        if self.init_columns != "copy" and self.share != 0:
            raise ValueError(f"init_columns={self.init_columns!r} changes the function unless share=0")
        if self.row_modules is not None and self.target_modules is None:
            raise ValueError("row_modules are some of target_modules: name these, too")
        if isinstance(self.row_modules, str):
            self.row_modules = [self.row_modules]
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, set(value))  # as in PEFT's own configurations
        for name in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and getattr(self, name) is not None:
                raise ValueError(f"`{name}` cannot be used when `target_modules` is a str.")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(
                "When `layers_pattern` is specified, `layers_to_transform` must also be specified."
            )

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write ``adapter_config.json``, in which the type says what to import.

        PEFT knows the type only after that, and without it says no more than that there is no such type.
        """
        super().save_pretrained(save_directory, **kwargs)
        file = Path(save_directory, CONFIG_NAME)
        content = json.loads(file.read_text("utf-8")) | {"peft_type": TYPE_IN_FILES}
        file.write_text(json.dumps(content, indent=2, sort_keys=True), "utf-8")

    @classmethod
    def from_json_file(cls, path_json_file: str, **kwargs: Any) -> dict[str, Any]:
        """Return what a file holds, with the type as the enum has it."""
        content: dict[str, Any] = super().from_json_file(path_json_file, **kwargs)
        return content | ({"peft_type": PeftType.GROW} if content.get("peft_type") == TYPE_IN_FILES else {})

    @property
    def new_share(self) -> float:
        """Share of the output that the new copies carry together."""
        return (self.k - 1) / self.k if self.share is None else self.share
