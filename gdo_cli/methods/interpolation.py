"""What the weights of a finished run make without training: a way back to the base, and one MLP of two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from gdo_cli.methods.base import Method
from gdo_cli.support.errors import UserError, require
from gdo_cli.support.identity import NOT_IDENTITY

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    Restore = Callable[[float], PreTrainedModel]


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

    def check_source(self, method: Method) -> None:
        """Refuse a run that was made by a method whose weights cannot be taken this way.

        Raises:
            UserError: with the reason.
        """

    def combine(self, restore: Restore) -> PreTrainedModel:
        """Return the model that is made of the run's weights.

        Args:
            restore: gives the run's model on the base, or one on the straight way to it (0 to 1 and beyond).
        """
        raise NotImplementedError


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

    def combine(self, restore: Restore) -> PreTrainedModel:
        return restore(self.alpha).requires_grad_(False)


@dataclass(frozen=True)
class Averaged(OfRun):
    """A G-Freeze run at the original size: each MLP and its trained copy averaged in their weights.

    What ``gdo export --form averaged`` writes (:func:`gdo_cli.growth.folding.average`), measured as a run.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.interpolation.Averaged"
    label: ClassVar[str] = "Averaged"

    def check_source(self, method: Method) -> None:
        from gdo_cli.methods.grow import GFreeze, OutputMix

        if not isinstance(method, GFreeze | OutputMix):
            raise UserError(
                f"method.run={self.run}: of {method.label} there is no average to take; name a run of "
                "g_freeze or output_mix"
            )

    def combine(self, restore: Restore) -> PreTrainedModel:
        from gdo_cli.growth.folding import average

        plain: PreTrainedModel = average(restore(1.0))
        return plain.requires_grad_(False)
