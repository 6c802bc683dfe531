"""Whether a model lost more than is tolerated: one-sided bounds on paired items.

A promise is kept where the upper bound of what was lost is within the tolerance, and broken where the lower
bound exceeds it. In between, the items cannot tell. Each bound is one-sided at the contract's level, so that
a kept promise is a non-inferiority test: the hypothesis "more was lost" is rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from gdo_cli.stats.intervals import ROUNDING

Values = Sequence[float]
Bounds = Callable[[float], tuple[float, float]]
MOST = 1e7  # items; where so many would not decide, none are named


@dataclass(frozen=True)
class Lost:
    """What a model lost against another on the same items; negative where it gained.

    Attributes:
        value: in the units of the measure.
        low, high: one-sided bounds.
        tolerated: the same units.
        items: how many were compared.
        needed: how many like these would decide; None where these do, or no number would.
    """

    value: float
    low: float
    high: float
    tolerated: float
    items: int
    needed: int | None

    @property
    def verdict(self) -> str:
        """``kept``, ``lost`` or ``undecided``."""
        return _verdict(self.low, self.high, self.tolerated)


def measure_lost(
    before: Values, after: Values, weights: Values, tolerated: float, level: float, share: float = 0.0
) -> Lost:
    """Return what was lost of a measure of which more is better, with its bounds.

    Right or wrong answers are judged by Tango's score interval (1998), other numbers by Student's on the
    items' differences. A tolerance of zero judges these items alone: no items can show that nothing at all
    is lost on others.

    Args:
        before, after: what each of the same items got from the base model and from the other one; where
            less is better, minus that.
        weights: of the items, e.g. tokens.
        tolerated: how much may be lost, in the measure's units.
        level: of each one-sided bound, e.g. 0.05.
        share: how much may be lost on top, as a share of the base model's own value, whose error counts too.
    """
    n = len(before)
    w = np.asarray(weights, float) * n / np.sum(weights)
    old, new = np.asarray(before, float), np.asarray(after, float)
    value = float(np.mean(w * (old - new)))
    own = share * float(np.mean(w * np.abs(old)))
    if tolerated == share == 0:
        return Lost(value, value, value, 0.0, n, None)
    if not share and {*before, *after} <= {0, 1} and np.ptp(w) == 0:
        bounds = _tango(int(((old == 1) & (new == 0)).sum()), int(((old == 0) & (new == 1)).sum()), n, level)
        return _judged(value, bounds, tolerated, n)
    rest = old - new - share * np.abs(old)  # what was lost beyond the share
    spread = w * (rest - float(np.mean(w * rest)))  # of a ratio of sums, to the first order
    sd = float(np.std(spread, ddof=1)) if n > 1 else math.inf
    return _judged(value, _student(value, 0.0 if sd < ROUNDING else sd, level), tolerated + own, n)


def _judged(value: float, bounds: Bounds, tolerated: float, n: int) -> Lost:
    low, high = bounds(n)
    needed = None
    if _verdict(low, high, tolerated) == "undecided":
        needed = _needed(lambda m: _verdict(*bounds(m), tolerated) != "undecided", n)
    return Lost(value, low, high, tolerated, n, needed)


def _verdict(low: float, high: float, tolerated: float) -> str:
    if high <= tolerated + ROUNDING:
        return "kept"
    return "lost" if low > tolerated + ROUNDING else "undecided"


def _needed(decides: Callable[[int], bool], n: int) -> int | None:
    """The least number of items that would decide, if they came out as these did."""
    more = n
    while not decides(more):
        n, more = more, 2 * more
        if more > MOST:
            return None
    while more - n > 1:
        middle = (n + more) // 2
        n, more = (n, middle) if decides(middle) else (middle, more)
    return more


def _student(value: float, sd: float, level: float) -> Bounds:
    def bounds(n: float) -> tuple[float, float]:
        if n < 2:
            return -math.inf, math.inf
        reach = float(stats.t.ppf(1 - level, n - 1)) * sd / math.sqrt(n)
        return value - reach, value + reach

    return bounds


def _tango(n_lost: int, n_gained: int, n: int, level: float) -> Bounds:
    """The differences that a score test of paired proportions does not reject.

    As in T. Tango (1998), Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design. Its variance is that of the difference which is tested, so that it holds where no
    item changed at all.
    """
    z = float(stats.norm.ppf(1 - level))
    lost_share, gained_share = n_lost / n, n_gained / n

    def score(delta: float, m: float) -> float:
        """By how many standard errors the loss exceeds ``delta``."""
        b, c = lost_share, gained_share
        middle = -b - c + (2 - b + c) * delta
        root = (math.sqrt(max(middle**2 + 8 * c * delta * (1 - delta), 0.0)) - middle) / 4
        variance = max(2 * root + delta * (1 - delta), 0.0)
        off = b - c - delta
        if variance == 0:
            return math.copysign(math.inf, off) if off else 0.0
        return off * math.sqrt(m) / math.sqrt(variance)

    def bounds(m: float) -> tuple[float, float]:
        value, near = lost_share - gained_share, 1e-12
        low = -1.0 if value <= -1 + near else optimize.brentq(lambda d: score(d, m) - z, -1 + near, value)
        high = 1.0 if value >= 1 - near else optimize.brentq(lambda d: score(d, m) + z, value, 1 - near)
        return float(low), float(high)

    return bounds
