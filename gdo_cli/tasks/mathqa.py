"""MathQA (Amini et al., 2019): arithmetic word problems with five options."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.fields import label, text
from gdo_cli.support.errors import require_one_of
from gdo_cli.tasks.base import ANSWERS, Example, Task

LETTERS = ("a", "b", "c", "d", "e")


@dataclass(frozen=True)
class MathQA(Task):
    """{"Problem": "…", "options": "a ) 12 , b ) 15 , …", "correct": "b", …}

    A few rows hold ``options`` as the text of a Python list; they are read as such.

    Attributes:
        answer: ``letter`` or ``text`` of the right option. The paper reports "exact string match" and
            does not say of which; MathQA's own label is the letter.
    """

    identity_name: ClassVar[str] = "gdo_cli.tasks.mathqa.MathQA"
    answer: str = "letter"

    def __post_init__(self) -> None:
        require_one_of("task.answer", self.answer, ANSWERS)

    def example(self, row: Row) -> Example:
        choices = parse_options(text(row, "options"))
        correct = label(row, "correct", LETTERS)
        if correct not in choices:
            raise RowError(f"the right option {correct!r} is not among {', '.join(choices)}")
        lines = [f"Problem: {text(row, 'Problem')}"]
        lines += [f"{letter} ) {choice}" for letter, choice in choices.items()]
        answer = correct if self.answer == "letter" else choices[correct]
        return Example("\n".join([*lines, "Answer:"]), f" {answer}")


def parse_options(raw: str) -> dict[str, str]:
    """Return letter → text, from either of the two forms in the data.

    >>> parse_options("a ) 1 , 000 , b ) 2")
    {'a': '1 , 000', 'b': '2'}
    >>> parse_options("['a ) 4', 'b ) 4 π']")
    {'a': '4', 'b': '4 π'}
    """
    if raw.startswith("["):
        try:
            items = ast.literal_eval(raw)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise RowError("field 'options' looks like a list and is none") from error
        raw = " , ".join(str(item) for item in items)
    # Options hold commas themselves ("1 , 000"), so the letters are what separates them.
    found = re.findall(r"(?:^|,)\s*([a-e])\s*\)\s*(.*?)\s*(?=,\s*[a-e]\s*\)|$)", raw, flags=re.S)
    choices = dict(found)
    if len(choices) < 2 or len(choices) != len(found) or not all(choices.values()):
        raise RowError(f"field 'options' cannot be read: {raw[:60]!r}")
    return choices
