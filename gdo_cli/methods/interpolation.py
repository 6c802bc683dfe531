"""Between the base and a finished run, without training (WiSE-FT)."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from gdo_cli.errors import UserError, require
from gdo_cli.methods import Method
from gdo_cli.schema import NOT_IDENTITY, identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gdo_cli.results import RunResult
    from gdo_cli.schema import RunConfig


@dataclass(frozen=True)
class WiSEFT(Method):
    """(1-α)·θ₀ + α·θ₁: the run's trained weights, pulled back to where they started (Wortsman et al., 2022).

    For a grown or adapted model these are the new weights alone.

    Attributes:
        run: the finished run, as ``gdo show`` takes it; its weights must have been kept.
        alpha: 0 is the base, 1 the run. Beyond 1 extrapolates.
        results_dir: where the run is looked for.
    """

    run: str
    alpha: float = 0.5
    results_dir: str = field(default="results", metadata=NOT_IDENTITY)
    label: ClassVar[str] = "WiSE-FT"
    preserves: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.alpha >= 0, f"method.alpha={self.alpha}: 0 for the base, 1 for the run, or between")

    def source(self) -> RunResult:
        """The run whose weights are pulled back."""
        from gdo_cli.results import find_run

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

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from gdo_cli.rebuild import rebuild
        from gdo_cli.weights import load_trained

        source = self.source()
        method = rebuild(source, None).method
        return load_trained(model, method, source, self.alpha).requires_grad_(False)
