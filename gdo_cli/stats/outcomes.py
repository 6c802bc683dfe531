"""Outcomes of single items, and their means with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gdo_cli.stats.uncertainty import Mean


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
