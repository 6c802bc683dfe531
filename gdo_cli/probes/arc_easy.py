"""ARC-Easy (Clark et al., 2018): grade-school science by likelihood of the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.fields import options, text
from gdo_cli.probes.multiple_choice import MultipleChoice, Question


@dataclass(frozen=True)
class ARCEasy(MultipleChoice):
    """{"question": "…", "choices": {"text": [4], "label": ["A", …]}, "answerKey": "A"}"""

    identity_name: ClassVar[str] = "gdo_cli.probes.arc_easy.ARCEasy"
    chance: ClassVar[float | None] = 0.25

    def asked(self, row: Row) -> Question:
        choices = options(row)
        if text(row, "answerKey") not in choices:
            raise RowError("answerKey is none of the options")
        return Question(
            text(row, "question"), list(choices.values()), list(choices).index(text(row, "answerKey"))
        )
