"""The contract: how much of each measure a model may lose against its base. The Hydra group ``keep``.

The paper states fine-tuning as a constrained problem (section 2): minimise the new task's loss subject to the
old one's not rising. This is the constraint, written down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gdo_cli.probes.base import Probe
from gdo_cli.stats.metrics import INDEX, LEAST
from gdo_cli.support.errors import UserError, require, suggest


@dataclass(frozen=True)
class Promise:
    """What may be lost of one measure: an amount in its units, or a share of the base model's value."""

    measure: str
    amount: float = 0.0
    share: float = 0.0

    @property
    def written(self) -> str:
        """As the contract has it: ``0.02``, ``2%``."""
        return f"{100 * self.share:g}%" if self.share else f"{self.amount:g}"


@dataclass(frozen=True)
class Contract:
    """What a run must keep.

    Attributes:
        tolerances: how much worse than the base model a measure may be, by probe (its headline) or measure
            (``arc_easy/likelihood_norm``, ``retention/index``): a number in the measure's units, or a
            percentage of the base model's value (``2%``); which way is worse is known. With 0 the same items
            may not come out worse; nothing is then inferred about others. null for no promise.
        level: of the one-sided test behind each promise.
    """

    identity_name: ClassVar[str] = "gdo_cli.evaluation.contract.Contract"
    tolerances: dict[str, Any] | None = None
    level: float = 0.05

    def __post_init__(self) -> None:
        require(0 < self.level < 0.5, f"keep.level={self.level}: must be above 0 and below 0.5")
        for name, tolerance in (self.tolerances or {}).items():
            _amounts(name, tolerance)

    def promises(self, probes: Mapping[str, Probe]) -> list[Promise]:
        """Return what is promised of these probes.

        Raises:
            UserError: a probe that is not asked, or a measure that it does not have.
        """
        return [
            Promise(_measure(name, probes), *_amounts(name, tolerance))
            for name, tolerance in (self.tolerances or {}).items()
            if tolerance is not None
        ]


def _amounts(name: str, tolerance: Any) -> tuple[float, float]:
    """A tolerance as an amount and a share of the base model's value, one of which is zero."""
    key = f"keep.tolerances.{name}={tolerance}"
    percent = re.fullmatch(r"\s*([-+\d.eE]+)\s*%\s*", tolerance) if isinstance(tolerance, str) else None
    written = percent[1] if percent else tolerance
    try:
        if tolerance is None:
            return 0.0, 0.0
        if isinstance(tolerance, bool):
            raise ValueError
        value = float(written)
    except (TypeError, ValueError):
        raise UserError(f"{key}: must be a number such as 0.02, or a percentage such as 2%") from None
    if not 0 <= value < math.inf:
        raise UserError(f"{key}: a tolerance says how much may be lost; it must be 0 or more")
    return (0.0, value / 100) if percent else (value, 0.0)


def _measure(name: str, probes: Mapping[str, Probe]) -> str:
    """The measure that a key of the contract names."""
    probe, _, key = name.partition("/")
    if name == INDEX:
        counted = [name for name, probe in probes.items() if probe.chance is not None]
        if len(counted) < LEAST:
            asked = ", ".join(probes) or "none"
            raise UserError(
                f"keep.tolerances.{INDEX}: the index needs {LEAST} probes with a level of guessing, such as "
                f"probe=[arc_easy,piqa,lambada]; asked: {asked}"
            )
        return INDEX
    if probe not in probes:
        raise UserError(
            f"keep.tolerances.{name}: probe {probe} is not asked; add it (probe=[…,{probe}]), or promise "
            f"another: {suggest(probe, [*probes, INDEX])}"
        )
    if not key:
        return f"{probe}/{probes[probe].headline}"
    known = probes[probe].measures
    if key not in known:
        raise UserError(f"keep.tolerances.{name}: {probe} has no measure {key}; {suggest(key, known)}")
    return name
