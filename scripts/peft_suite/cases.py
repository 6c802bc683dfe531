"""What of PEFT's tests the growth tuner is asked: configurations and models."""

from __future__ import annotations

from typing import Any

import pytest
from peft import TaskType

from gdo_cli.growth import GrowConfig

COLUMNS = ["gate_proj", "up_proj", "fc1", "fc_in", "dense_h_to_4h", "wi", "intermediate.dense"]
ROWS = ["down_proj", "fc2", "fc_out", "dense_4h_to_h", "wo", "output.dense"]
# One list for every family; the last of the rows ends in the name of a layer of BERT's attention, too.
NAMED: dict[str, Any] = {
    "target_modules": COLUMNS + ROWS,
    "row_modules": ROWS,
    "exclude_modules": ["attention.output.dense"],
}
MLP: dict[str, Any] = {"target_modules": ["lin0", "lin1"], "row_modules": ["lin1"]}
CUSTOM: dict[str, dict[str, Any]] = {
    "new": {},
    "columns": {"trainable": "columns"},
    "new, k=3": {"k": 3},
    "columns, k=3": {"trainable": "columns", "k": 3},
    "share": {"k": 3, "share": 0.25},
    "zero": {"share": 0.0, "init_columns": "random"},
}


class LoneColumn(GrowConfig):
    """Where a test names ``lin0`` of a block alone, the row that reads it grows with it.

    So PEFT's tests do for its own methods that need a second list (IA³'s ``feedforward_modules``).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        columns = [name for name in self.target_modules or () if name.endswith("lin0")]
        if columns and not self.row_modules:
            self.row_modules = [name.replace("lin0", "row") for name in columns]
            self.target_modules = {*columns, *self.row_modules}


def decoders() -> list[Any]:
    """New weights in MLPs that are named; columns in those found by themselves."""
    task = {"task_type": "CAUSAL_LM"}
    return [
        pytest.param(GrowConfig, {**task, **NAMED}, id="named"),
        pytest.param(GrowConfig, {**task, "trainable": "columns"}, id="found"),
    ]


def named(task_type: str) -> list[Any]:
    """New weights, two of them beside each old one, and columns."""
    task = {"task_type": task_type, **NAMED}
    return [
        pytest.param(GrowConfig, {**task, "k": 3}, id="new"),
        pytest.param(GrowConfig, {**task, "trainable": "columns"}, id="columns"),
    ]


def custom() -> list[Any]:
    """Cases of PEFT's own small modules: name, model, configuration."""
    cases = [
        *((kind, "MLP", MLP | fields) for kind, fields in CUSTOM.items()),
        ("wider", "MLP2", MLP),
        ("head saved", "SavedHead", MLP | {"modules_to_save": ["head"]}),
        ("head saved, columns", "SavedHead", MLP | {"modules_to_save": ["head"], "trainable": "columns"}),
    ]
    return [
        pytest.param(kind, model, GrowConfig, fields, id=f"{kind}-{model}") for kind, model, fields in cases
    ]


def several() -> list[Any]:
    """Two adapters on the same layers: name, method, configuration class, and fields of each."""
    pairs = {
        "new and new": (MLP, MLP),
        "new and new, k=3": (MLP, MLP | {"k": 3}),
        "new and columns": (MLP, MLP | {"trainable": "columns"}),
        "columns and columns": (MLP | {"trainable": "columns"}, MLP | {"trainable": "columns"}),
        "shares": (MLP | {"share": 0.2}, MLP | {"k": 3, "share": 0.3}),
    }
    random = {"init_weights": False}
    return [
        pytest.param(name, "grow", GrowConfig, first | random, second | random, id=name)
        for name, (first, second) in pairs.items()
    ]


def like_lora(init_lora_weights: bool = True, **fields: Any) -> GrowConfig:
    """Grow where a test that is not about LoRA takes it as the example."""
    return GrowConfig(init_weights=init_lora_weights, **fields)


def compiled() -> dict[str, tuple[GrowConfig, dict[str, Any]]]:
    """Settings of the tests of torch.compile: configuration, options of torch.compile."""
    return {
        mode: (GrowConfig(task_type=TaskType.CAUSAL_LM, trainable=mode), {}) for mode in ("new", "columns")
    }
