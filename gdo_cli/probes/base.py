"""A probe measures what the model knew before. Same shape as a task: rows in, scores out.

To add one: a dataclass with ``queries`` and ``outcomes`` here, and a YAML under conf/probe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.data.dataset import Dataset, Row
from gdo_cli.lm.tokens import Query
from gdo_cli.stats.outcomes import Answer, Outcome
from gdo_cli.support.errors import require
from gdo_cli.support.identity import IF_SET


@dataclass(frozen=True)
class Probe:
    """Base of all probes.

    Attributes:
        items: how many rows are asked; the subset is always the same. None for all.
        shots: solved examples in front of each question, always the same ones.
        throughout: asked at every evaluation; if not, before and after training alone.
        headline: the outcome that figures show.
        measures: the outcomes that every item has, so that two models can be compared item by item.
        chance: what guessing gets of it, where the retention index is to count it; None where it is not.
    """

    dataset: Dataset
    items: int | None = 200
    shots: int = 0
    throughout: bool = field(default=True, metadata=IF_SET)
    has_rows: ClassVar[bool] = True  # if not, something else asks its items (gdo_cli.evaluation.harness)
    headline: ClassVar[str]
    measures: ClassVar[tuple[str, ...]]
    chance: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        require(self.items is None or self.items > 0, f"items={self.items} of a probe: must be positive")
        require(self.shots >= 0, f"shots={self.shots} of a probe: must not be negative")

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        """Return what to ask the model about a row.

        Raises:
            RowError: the row cannot be used.
        """
        raise NotImplementedError

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        """Return what the answers to the row's queries, in order, amount to."""
        raise NotImplementedError

    def wants_words(self, answers: list[Answer]) -> bool:
        """Return whether the model's own answer to the row's first query is to be generated and kept."""
        return False

    def judge_words(self, row: Row, words: str) -> dict[str, Outcome]:
        """Return what the model's own answer amounts to, beside the outcomes."""
        return {}
