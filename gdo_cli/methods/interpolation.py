"""What the weights of a finished run make without training: a way back to the base, and one MLP of two."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from gdo_cli.methods.base import Method
from gdo_cli.support.errors import UserError, require
from gdo_cli.support.identity import NOT_IDENTITY, identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gdo_cli.config.run_config import RunConfig
    from gdo_cli.runs.record import RunResult


@dataclass(frozen=True)
class OfRun(Method):
    """Base of the methods that take the weights of a finished run.

    Attributes:
        run: the finished run, as ``gdo show`` takes it; its weights must have been kept.
        results_dir: where the run is looked for.
    """

    run: str
    results_dir: str = field(default="results", metadata=NOT_IDENTITY)
    preserves: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def source(self) -> RunResult:
        """The run whose weights are taken."""
        from gdo_cli.runs.find import find_run

        return find_run(self.run, self.results_dir)

    def check(self, run: RunConfig) -> None:
        source = self.source()
        if not source.record["steps"]:
            raise UserError(f"method.run={self.run}: {source.title} trained nothing; name a run that did")
        if source.weights is None:
            raise UserError(
                f"method.run={self.run}: its weights were not kept; run it again: gdo train --force "
                f"{shlex.join(source.record['overrides'])}"
            )
        if source.name["model"] != run.name["model"]:
            raise UserError(
                f"method.run={self.run}: a run of model={source.name['model']}, not of {run.name['model']}"
            )
        if source.record["config"]["model"] != identity(run.model):
            raise UserError(f"method.run={self.run}: its model={run.name['model']} had other settings")

    def tuned(self, model: PreTrainedModel, alpha: float = 1.0) -> PreTrainedModel:
        """The run's model, or one on the straight way to it."""
        from gdo_cli.experiment.reopen import recorded_method
        from gdo_cli.experiment.weights import load_trained

        source = self.source()
        return load_trained(model, recorded_method(source), source, alpha)


@dataclass(frozen=True)
class WiSEFT(OfRun):
    """(1-α)·θ₀ + α·θ₁: the run's trained weights, pulled back to where they started (Wortsman et al., 2022).

    For a grown or adapted model these are the new weights alone.

    Attributes:
        alpha: 0 is the base, 1 the run. Beyond 1 extrapolates.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.interpolation.WiSEFT"
    alpha: float = 0.5
    label: ClassVar[str] = "WiSE-FT"

    def __post_init__(self) -> None:
        require(self.alpha >= 0, f"method.alpha={self.alpha}: 0 for the base, 1 for the run, or between")

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        return self.tuned(model, self.alpha).requires_grad_(False)


@dataclass(frozen=True)
class Averaged(OfRun):
    """A G-Freeze run at the original size: each MLP and its trained copy averaged in their weights.

    What ``gdo export --form averaged`` writes (:func:`gdo_cli.growth.folding.average`), measured as a run.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.interpolation.Averaged"
    label: ClassVar[str] = "Averaged"

    def check(self, run: RunConfig) -> None:
        from gdo_cli.experiment.reopen import recorded_method
        from gdo_cli.methods.grow import GFreeze, OutputMix

        super().check(run)
        source = self.source()
        if not isinstance(recorded_method(source), GFreeze | OutputMix):
            raise UserError(
                f"method.run={self.run}: of {source.name['method']} there is no average to take; name a run "
                "of g_freeze or output_mix"
            )

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from gdo_cli.growth.folding import average

        plain: PreTrainedModel = average(self.tuned(model))
        return plain.requires_grad_(False)
