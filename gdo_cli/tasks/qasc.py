"""QASC (Khot et al., 2020): science questions with eight options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.fields import options, text
from gdo_cli.support.errors import require_one_of
from gdo_cli.tasks.base import ANSWERS, Example, Task


@dataclass(frozen=True)
class QASC(Task):
    """{"question": "…", "choices": {"text": [8], "label": ["A", …, "H"]}, "answerKey": "F", …}

    Attributes:
        facts: put the two supporting facts into the prompt. The paper does not say; rows of the
            training split carry none, so the default leaves them out.
        answer: ``letter`` or ``text`` of the right option.
    """

    identity_name: ClassVar[str] = "gdo_cli.tasks.qasc.QASC"
    facts: bool = False
    answer: str = "letter"

    def __post_init__(self) -> None:
        require_one_of("task.answer", self.answer, ANSWERS)

    def example(self, row: Row) -> Example:
        choices = options(row)
        key = text(row, "answerKey")
        if key not in choices:
            raise RowError(f"answerKey {key!r} is none of the options {', '.join(choices)}")
        lines = [f"Question: {text(row, 'question')}"]
        if self.facts:
            lines.insert(0, f"Facts: {text(row, 'fact1')} {text(row, 'fact2')}")
        lines += [f"({name}) {choice}" for name, choice in choices.items()]
        answer = key if self.answer == "letter" else choices[key]
        return Example("\n".join([*lines, "Answer:"]), f" {answer}")
