"""PIQA (Bisk et al., 2020): which of two ways reaches the goal, by likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.fields import text
from gdo_cli.probes.multiple_choice import MultipleChoice, Question


@dataclass(frozen=True)
class PIQA(MultipleChoice):
    """{"goal": "How do I fill holes in concrete?", "sol1": "Use a …", "sol2": "Use a …", "label": 0}"""

    identity_name: ClassVar[str] = "gdo_cli.probes.piqa.PIQA"
    chance: ClassVar[float | None] = 0.5

    def asked(self, row: Row) -> Question:
        right = row.get("label")
        if right not in (0, 1) or isinstance(right, bool):
            raise RowError(f"field 'label' is {right!r}, not 0 or 1")
        return Question(text(row, "goal"), [text(row, "sol1"), text(row, "sol2")], int(right))
