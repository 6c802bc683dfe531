"""Learning against forgetting: which points of a method nothing beats, and what they keep at equal score.

A point is (task score, retention), more of either being better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]


def undominated(points: Sequence[Point]) -> list[bool]:
    """For each point, whether none is as good in both and better in one (Pareto)."""
    return [
        not any(s >= score and r >= kept and (s, r) != (score, kept) for s, r in points)
        for score, kept in points
    ]


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the undominated points by rising score, each once; retention falls along them."""
    return sorted({p for p, best in zip(points, undominated(points), strict=True) if best})


def area(points: Sequence[Point]) -> float:
    """Return the area of all that some point is at least as good as (the hypervolume above (0, 0)).

    Higher is better; a method that learnt to 1 and forgot nothing of a retention of 0.5 has 0.5.
    """
    total, before = 0.0, 0.0
    for score, kept in frontier(points):
        total += max(0.0, score - before) * max(0.0, kept)
        before = max(before, score)
    return total


def retention_at(points: Sequence[Point], score: float) -> float | None:
    """Return what is kept at a task score, on straight lines between the frontier's points.

    None above the best score; below the lowest of the frontier it is that point's retention, which is
    as good in both.
    """
    best = frontier(points)
    scores, kept = zip(*best, strict=True)
    return None if score > scores[-1] else float(np.interp(score, scores, kept))


def matched_score(groups: Sequence[Sequence[Point]]) -> float:
    """Return the highest task score that every method reaches."""
    return min(max(score for score, _ in points) for points in groups)


def kept_on_reaching(reached: Sequence[float], kept: Sequence[float], target: float) -> float | None:
    """Return what is kept where something first reaches a target, on a straight line from the place before.

    None where it never does. What is reached already at the first place is read there.

    Args:
        reached: by evaluation, in their order: a task score, or a distance from the base.
        kept: the retention at each of them.
    """
    place = next((i for i, value in enumerate(reached) if value >= target), None)
    if place is None:
        return None
    if place == 0:
        return kept[0]
    (low, high), (before, after) = reached[place - 1 : place + 1], kept[place - 1 : place + 1]
    share = (target - low) / (high - low)
    return before + share * (after - before)
