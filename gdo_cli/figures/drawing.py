"""What every kind of figure gives."""

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
