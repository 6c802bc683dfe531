"""How alike two models' function vectors are, with bootstrap intervals over prompts, a floor and a ceiling.

Shapes: P clean prompts, E shuffled ones, N heads of all layers, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdo_cli.commands.analyze.function_vectors import Measured

Indices = NDArray[np.intp]
Floats = NDArray[np.float32]
# Weights of the clean prompts, (P,), and of the shuffled ones, (E,); each sum to one.
Weights = tuple[Floats, Floats]
DRAWS = 1000
LEVEL = 0.95


def top_heads(effects_EN: Floats, n: int, weights_E: Floats | None = None) -> Indices:
    """Return the indices of the n heads of largest mean effect, the largest first."""
    return np.argsort(-np.average(effects_EN, axis=0, weights=weights_E), kind="stable")[:n]


def function_vector(contributions_PND: Floats, heads: Indices, weights_P: Floats | None = None) -> Floats:
    """Return the mean over the prompts of what the heads add together, (D,)."""
    n_prompts = len(contributions_PND)
    weights = np.full(n_prompts, 1 / n_prompts, np.float32) if weights_P is None else weights_P
    each = [weights @ contributions_PND[:, head] for head in heads]  # no copy of all that is not asked for
    return np.sum(each, axis=0)


def cosine(a: Floats, b: Floats) -> float:
    """Of the angle between two vectors; 0 if one of them is zero."""
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a.astype(np.float64) @ b.astype(np.float64)) / norms if norms else 0.0


def compare(base: Measured, other: Measured, n: int, paired: bool, seed: int) -> dict[str, dict[str, float]]:
    """Return the paper's two numbers, and the second also with each model's own heads.

    Args:
        n: heads of a function vector.
        paired: whether both were measured on the same prompts, which are then drawn together.
    Returns:
        ``overlap``: heads that are among the n most effective in both. ``cosine_base_heads``: of the
        function vectors over the base's n heads. ``cosine_own_heads``: over each model's own.
        Each as ``value``, and ``low`` and ``high``, between which 95 % of 1,000 bootstrap draws of
        prompts lie, heads chosen anew in each. A draw repeats prompts and so chooses heads with more
        noise: where prompts are not paired, overlaps of draws lie below the value, not around it.
    """
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS):
        first = _draw(base, generator)
        draws.append(_figures(base, other, n, first, first if paired else _draw(other, generator)))
    return {
        name: {"value": value} | _interval([draw[name] for draw in draws])
        for name, value in _figures(base, other, n, (None, None), (None, None)).items()
    }


def _draw(measured: Measured, generator: np.random.Generator) -> Weights:
    """How often each prompt comes when as many are drawn with replacement, as shares."""
    sizes = len(measured.clean), len(measured.shuffled)
    clean, shuffled = (np.bincount(generator.integers(n, size=n), minlength=n) / n for n in sizes)
    return clean.astype(np.float32), shuffled.astype(np.float32)


def _figures(
    base: Measured,
    other: Measured,
    n: int,
    drawn: Weights | tuple[None, None],
    drawn_other: Weights | tuple[None, None],
) -> dict[str, float]:
    ours = top_heads(base.effects, n, drawn[1])
    theirs = top_heads(other.effects, n, drawn_other[1])
    vector = function_vector(base.contributions, ours, drawn[0])
    return {
        "overlap": float(len(np.intersect1d(ours, theirs))),
        "cosine_base_heads": cosine(vector, function_vector(other.contributions, ours, drawn_other[0])),
        "cosine_own_heads": cosine(vector, function_vector(other.contributions, theirs, drawn_other[0])),
    }


def chance(base: Measured, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Return what n heads drawn at random would give: the floor.

    Returns:
        ``overlap``: n²/N, the mean of a hypergeometric distribution. ``cosine``: of the base's function
        vector with that of random heads of the base itself, mean and where 95 % of the draws lie.
    """
    n_heads = base.effects.shape[1]
    generator = np.random.default_rng(seed)
    mean = base.contributions.mean(0)  # (N, D)
    vector = mean[top_heads(base.effects, n)].sum(0)
    draws = [cosine(vector, mean[generator.choice(n_heads, n, replace=False)].sum(0)) for _ in range(DRAWS)]
    return {
        "overlap": {"value": n * n / n_heads},
        "cosine": {"value": float(np.mean(draws))} | _interval(draws),
    }


def _interval(draws: list[float]) -> dict[str, float]:
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(draws, ends, method="closest_observation")  # heads come in whole numbers
    return {"low": float(low), "high": float(high)}
