"""One module for each kind of figure: ``draw(runs, …) → Drawing``, from run folders alone.

To add a kind: a module here with ``draw``, and ``figure: {kind: …}`` in an experiment's YAML, whose other
keys are the arguments of ``draw`` by name. Where a kind draws what ``gdo
analyze`` found, ``ANALYSIS`` names that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure and its points, one record per plotted value, for the CSV beside it; and, where the
    figure stands for one, a table for people to read (Markdown), as its rows with the heading first."""

    figure: Figure
    points: list[dict[str, Any]]
    table: list[list[str]] | None = None
