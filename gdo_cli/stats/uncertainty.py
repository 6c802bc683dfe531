"""What is known of a number: a mean with its error, an interval, a difference with its p-value; and how
each is written."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """A weighted mean, its standard error over items, and the number of items."""

    value: float
    se: float
    n: int


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval; they lie at infinity where nothing bounds it."""

    value: float
    low: float
    high: float

    @classmethod
    def unbounded(cls, value: float) -> Interval:
        """Return the value alone: a single run tells nothing of the spread over runs."""
        return cls(value, -math.inf, math.inf)

    @property
    def half(self) -> float:
        """What stands behind ±, of an interval that lies evenly around its value, as Student's does."""
        return self.high - self.value

    def ends(self, form: str = ".3f") -> str:
        """Return e.g. ``[0.771, 0.848]``."""
        return f"[{self.low:{form}}, {self.high:{form}}]"

    def with_ends(self, form: str = ".3f") -> str:
        """Return e.g. ``0.812 [0.771, 0.848]``."""
        return f"{self.value:{form}} {self.ends(form)}"


@dataclass(frozen=True)
class Paired:
    """Second minus first on the same items or seeds, the p-value of no difference, and the test's name."""

    difference: float
    p: float
    test: str


def plus_minus(value: float, error: float | None, form: str = ".3f") -> str:
    """Return e.g. ``0.812 ± 0.021``; the value alone where the error is not known, or not bounded.

    Args:
        error: what stands behind the sign: a standard error, or half an interval.
    """
    if error is None or math.isinf(error):
        return format(value, form)
    return f"{value:{form}} ± {error:{form}}"
