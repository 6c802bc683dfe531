"""Outcomes of single items, and what is known of a number: its error, its interval, a p-value; and how each
is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a model did with one query.

    Attributes:
        logprob: log-likelihood of the continuation, in nats.
        n_tokens: its number of tokens.
        exact: whether greedy decoding gives exactly the continuation and then stops.
        greedy: whether it gives the continuation, whatever comes after.
        text: the continuation's places as the model would fill them, given the right tokens before.
    """

    logprob: float
    n_tokens: int
    exact: bool
    greedy: bool
    text: str


@dataclass(frozen=True)
class Outcome:
    """A value with its weight: 1 for an item that counts once, tokens for a loss a token."""

    value: float
    weight: float = 1.0


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

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields of ``--json``: no ends where nothing bounds the value."""
        bounded = math.isfinite(self.low) and math.isfinite(self.high)
        low, high = (self.low, self.high) if bounded else (None, None)
        return {"value": self.value, "low": low, "high": high}

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


def mean(outcomes: Sequence[Outcome]) -> Mean:
    """Σ w·v / Σ w, with the standard error of a ratio estimator (items drawn independently).

    For weights of 1 and values of 0 or 1 this is √(p(1-p)/(n-1)).
    """
    n = len(outcomes)
    total = sum(o.weight for o in outcomes)
    if not n or not total:
        return Mean(math.nan, math.nan, n)
    centre = sum(o.value * o.weight for o in outcomes) / total
    squares = sum((o.weight * (o.value - centre)) ** 2 for o in outcomes)
    se = math.sqrt(squares * n / (n - 1)) / total if n > 1 else math.nan
    return Mean(centre, se, n)


def plus_minus(value: float, error: float | None, form: str = ".3f") -> str:
    """Return e.g. ``0.812 ± 0.021``; the value alone where the error is not known, or no number.

    Args:
        error: what stands behind the sign: a standard error, or half an interval.
    """
    if error is None or not math.isfinite(error):
        return format(value, form)
    return f"{value:{form}} ± {error:{form}}"
