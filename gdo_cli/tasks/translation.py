"""English to French: MTNT (Michel & Neubig, 2018), and Multi30k as a clearly named other task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row
from gdo_cli.data.fields import text
from gdo_cli.stats.metrics import BLEU, Metric
from gdo_cli.support.errors import require
from gdo_cli.tasks.base import Example, ScoredTask


@dataclass(frozen=True)
class Translation(ScoredTask):
    """{"en": "A man is hungry.", "fr": "Un homme a faim."}; scored with SacreBLEU.

    Attributes:
        max_new_tokens: length at which generation of a translation is cut off.
    """

    identity_name: ClassVar[str] = "gdo_cli.tasks.translation.Translation"
    max_new_tokens: int = 96

    def __post_init__(self) -> None:
        require(self.max_new_tokens > 0, f"task.max_new_tokens={self.max_new_tokens}: must be positive")
        _ = self.metric  # refuses what it cannot have

    @property
    def metric(self) -> Metric:  # type: ignore[override]
        return BLEU.with_settings(vars(self))

    def example(self, row: Row) -> Example:
        source = " ".join(text(row, "en").split())
        target = " ".join(text(row, "fr").split())
        return Example(f"English: {source}\nFrench:", f" {target}")
