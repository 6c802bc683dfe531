"""SciTail (Khot et al., 2018): does the premise entail the hypothesis?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row
from gdo_cli.data.fields import label, text
from gdo_cli.tasks.base import Example, Task


@dataclass(frozen=True)
class SciTail(Task):
    """{"premise": "Pluto rotates once every 6.39 days", "hypothesis": "…", "label": "neutral"}"""

    identity_name: ClassVar[str] = "gdo_cli.tasks.scitail.SciTail"

    def example(self, row: Row) -> Example:
        prompt = (
            f"Premise: {text(row, 'premise')}\n"
            f"Hypothesis: {text(row, 'hypothesis')}\n"
            "Relation (entails or neutral):"
        )
        return Example(prompt, f" {label(row, 'label', ('entails', 'neutral'))}")
