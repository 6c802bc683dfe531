"""What a run is made of: plain, checked dataclasses. No Hydra, no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.data.config import DataConfig
from gdo_cli.evaluation.config import EvaluationConfig
from gdo_cli.evaluation.contract import Contract
from gdo_cli.runs.record import DECAYING
from gdo_cli.support.errors import UserError, require, require_one_of
from gdo_cli.support.identity import IF_SET, NOT_IDENTITY, identity
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


@dataclass(frozen=True)
class StopConfig:
    """When training ends before its last step.

    Attributes:
        patience: after so many evaluations in a row of which none was better; null for never.
        lost: as soon as a promise of the contract is lost.
    """

    identity_name: ClassVar[str] = "gdo_cli.config.run_config.StopConfig"
    patience: int | None = None
    lost: bool = False

    def __post_init__(self) -> None:
        require(
            self.patience is None or self.patience > 0, f"stop.patience={self.patience}: must be positive"
        )


SELECT = ("last", "best", "kept")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run that belong to no part.

    Attributes:
        layers: ``all``, a number of layers, or a list of layer indices.
        layer_rule: which ones, where a number is given: the ``pilot`` run's largest updates (the
            paper's rule), the largest ``relative`` ones, its ``worst``, the weights with most signal over
            noise (``snr``), or ``first``, ``last``, ``spread``, ``random``.
        select: the weights that the run ends with: of the ``last`` step, of the ``best`` evaluation on
            validation items, or of the best one that holds the contract (``kept``).
        results_dir: folder that holds ``runs/`` and ``figures/``.
        save_weights: whether the trained weights are kept in the run folder.
    """

    layers: Any = "all"
    layer_rule: str = "pilot"
    seed: int = 0
    select: str = field(default="last", metadata=IF_SET)
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
    stop: StopConfig = field(default_factory=StopConfig, metadata=IF_SET)
    wandb: WandbConfig = field(default_factory=WandbConfig, metadata=NOT_IDENTITY)
    name: dict[str, str] = field(metadata=NOT_IDENTITY)
    overrides: list[str] = field(metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require_one_of("layer_rule", self.layer_rule, LAYER_RULES)
        require_one_of("select", self.select, SELECT)
        self._check_keeping()

    def _check_keeping(self) -> None:
        """Refuse rules of selecting and stopping that could never come to anything."""
        stops = self.stop != StopConfig()
        if stops and self.train.lr_scheduler in DECAYING:
            raise UserError(
                f"stop: train.lr_scheduler={self.train.lr_scheduler} falls to zero at the last step, which a "
                "run that stops early never reaches; choose constant_with_warmup, or select=best without stop"
            )
        asked = [f"select={self.select}"] * (self.select == "kept") + ["stop.lost=true"] * self.stop.lost
        if not asked:
            return
        promised = [promise.measure.partition("/")[0] for promise in self.keep.promises(self.probe)]
        require(bool(promised), f"{asked[0]}: nothing is promised; give a contract, e.g. keep=default")
        for probe in promised:
            if probe in self.probe and not self.probe[probe].throughout:
                raise UserError(
                    f"{asked[0]}: {probe} is promised; ask it at every evaluation: "
                    f"probe.{probe}.throughout=true"
                )

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
        if self.select == "kept" or self.stop.lost:
            content["keep"] = identity(self.keep)  # else it is only looked at
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
