"""What a run is made of: plain, checked dataclasses. No Hydra, no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.data.config import DataConfig
from gdo_cli.evaluation.config import EvaluationConfig
from gdo_cli.keep.contract import Contract
from gdo_cli.support.errors import require_one_of
from gdo_cli.support.identity import NOT_IDENTITY, identity
from gdo_cli.training.config import TrainConfig

if TYPE_CHECKING:
    from gdo_cli.methods.base import Method
    from gdo_cli.models.loading import ModelSource
    from gdo_cli.probes.base import Probe
    from gdo_cli.tasks.base import Task

PILOT_RULES = ("pilot", "relative", "worst")
LAYER_RULES = (*PILOT_RULES, "snr", "first", "last", "spread", "random")


@dataclass(frozen=True)
class WandbConfig:
    """The optional mirror of a run on Weights & Biases; local files stay the source of truth."""

    identity_name: ClassVar[str] = "gdo_cli.schema.WandbConfig"
    mode: str = "disabled"
    project: str = "gdo"
    entity: str | None = None

    def __post_init__(self) -> None:
        require_one_of("wandb.mode", self.mode, ("disabled", "offline", "online"))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run that belong to no part.

    Attributes:
        layers: ``all``, a number of layers, or a list of layer indices.
        layer_rule: which ones, where a number is given: the ``pilot`` run's largest updates (the
            paper's rule), the largest ``relative`` ones, its ``worst``, the weights with most signal over
            noise (``snr``), or ``first``, ``last``, ``spread``, ``random``.
        results_dir: folder that holds ``runs/`` and ``figures/``.
        save_weights: whether the trained weights are kept in the run folder.
    """

    layers: Any = "all"
    layer_rule: str = "pilot"
    seed: int = 0
    results_dir: str = field(default="results", metadata=NOT_IDENTITY)
    save_weights: bool = field(default=True, metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """Everything that decides a run. Two runs with the same :attr:`id` and seed are the same run.

    Attributes:
        name: the chosen options by group, e.g. ``{"model": "gemma3_270m", "method": "sft", …}``.
        overrides: the words that it was composed from.
    """

    identity_name: ClassVar[str] = "gdo_cli.schema.RunConfig"
    model: ModelSource
    task: Task
    method: Method
    data: DataConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    probe: dict[str, Probe]
    keep: Contract = field(default_factory=Contract, metadata=NOT_IDENTITY)
    wandb: WandbConfig = field(default_factory=WandbConfig, metadata=NOT_IDENTITY)
    name: dict[str, str] = field(metadata=NOT_IDENTITY)
    overrides: list[str] = field(metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require_one_of("layer_rule", self.layer_rule, LAYER_RULES)

    @property
    def path(self) -> Path:
        """The run's folder: ``RESULTS/runs/MODEL/TASK/METHOD-ID/seedN``."""
        root = Path(self.results_dir) / "runs" / self.name["model"] / self.name["task"]
        return root / f"{self.name['method']}-{self.id}" / f"seed{self.seed}"

    @property
    def id(self) -> str:
        """Hash of what decides the numbers, the seed apart: eight hexadecimal digits."""
        content = identity(self)
        del content["seed"]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
