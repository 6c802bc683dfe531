"""A user's own probes, by YAML or the command line alone: questions with options, answers, or text.

Rows are JSON Lines, CSV, TSV or Parquet. For several probes of one kind, copy its YAML under other names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gdo_cli.data.dataset import Dataset, Row, RowError
from gdo_cli.data.fields import is_blank, text
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.base import Probe
from gdo_cli.probes.multiple_choice import MultipleChoice, Question
from gdo_cli.probes.perplexity import Perplexity
from gdo_cli.stats.metrics import token_f1
from gdo_cli.stats.outcomes import Answer, Outcome
from gdo_cli.support.errors import UserError, require, require_one_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _require_path(probe: Any) -> None:
    require(
        bool(probe.path),
        f"probe {probe.dataset.name}: name its file, probe.{probe.dataset.name}.path=FILE (JSON Lines, CSV, "
        "TSV or Parquet)",
    )


@dataclass(frozen=True)
class Choices(MultipleChoice):
    """{"question": "…", "options": ["…", "…"], "answer": "B"}

    Asked and scored as ARC-Easy is: the option with the highest log-likelihood, or the highest one a byte.

    Attributes:
        path: file of the rows.
        question: field with the question.
        options: field with a list of options; or the fields that hold one each, separated by commas.
        answer: field with the right option: its text, its letter, or its place from 0.
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.own.Choices"
    dataset: Dataset = field(default_factory=lambda: Dataset("choices"))
    path: str = ""
    question: str = "question"
    options: str = "options"
    answer: str = "answer"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_path(self)

    def asked(self, row: Row) -> Question:
        options = self._options(row)
        return Question(text(row, self.question), options, _place(row.get(self.answer), options, self.answer))

    def _options(self, row: Row) -> list[str]:
        fields = [name.strip() for name in self.options.split(",")]
        if len(fields) > 1:
            options: Any = [row.get(name) for name in fields]
        else:
            options = row.get(self.options)
        if not isinstance(options, list) or len(options) < 2:
            raise RowError(f"field {self.options!r} is no list of two options or more")
        if any(not isinstance(option, str) or is_blank(option) for option in options):
            raise RowError(f"{self.options!r} has an option that is empty or no text")
        return [option.strip() for option in options]


def _place(answer: Any, options: list[str], key: str) -> int:
    """The place of the right option, named by its text, its letter or its place."""
    if isinstance(answer, str) and answer.strip() in options:
        if options.count(answer.strip()) > 1:
            raise RowError(f"field {key!r} names an option that is there twice")
        return options.index(answer.strip())
    letters = LETTERS[: len(options)]
    word = str(answer).strip()
    if len(word) == 1 and word in letters:
        return letters.index(word)
    if not isinstance(answer, bool) and re.fullmatch(r"\d+(\.0)?", word) and float(word) < len(options):
        return int(float(word))
    raise RowError(f"field {key!r} is {answer!r}: no option, no letter and no place of one")


SCORES = ("exact_match", "f1", "pattern")


@dataclass(frozen=True)
class Answers(Probe):
    r"""{"prompt": "Q: What is 3 + 4?\nA:", "answer": "7"}

    ``exact_match``: greedy decoding gives exactly the answer and then stops. ``f1``: the words that the
    model's own answer shares with the right one, as SQuAD counts them. ``pattern``: what a regular expression
    finds last in the model's own answer is the right one, as with filters of lm-evaluation-harness.

    Attributes:
        path: file of the rows.
        prompt: field with the prompt.
        answer: field with the right answer.
        score: ``exact_match``, ``f1`` or ``pattern``; the last two let the model write.
        pattern: the expression; its first group, if it has one, is what counts.
        max_new_tokens: how much the model may write.
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.own.Answers"
    dataset: Dataset = field(default_factory=lambda: Dataset("answers"))
    path: str = ""
    prompt: str = "prompt"
    answer: str = "answer"
    score: str = "exact_match"
    pattern: str | None = None
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        key = f"probe.{self.dataset.name}"
        _require_path(self)
        require_one_of(f"{key}.score", self.score, SCORES)
        require(self.max_new_tokens > 0, f"{key}.max_new_tokens={self.max_new_tokens}: must be positive")
        if (self.pattern is None) == (self.score == "pattern"):
            raise UserError(f"{key}: score=pattern needs a pattern, and no other score has one")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise UserError(f"{key}.pattern={self.pattern}: not a regular expression ({error})") from error

    @property
    def headline(self) -> str:  # type: ignore[override]
        return self.score

    @property
    def measures(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(("exact_match", self.score)))

    @property
    def words(self) -> int:
        """Tokens of the model's own answer."""
        return self.max_new_tokens

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        shown = "".join(f"{text(s, self.prompt)} {self._answer(s)}\n\n" for s in shots)
        return [Query(shown + text(row, self.prompt), f" {self._answer(row)}")]

    def _answer(self, row: Row) -> str:
        value = row.get(self.answer)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return str(value) if number else text(row, self.answer)

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        (answer,) = answers
        return {"exact_match": Outcome(float(answer.exact))}

    def wants_words(self, answers: list[Answer]) -> bool:
        return self.score != "exact_match"

    def judge_words(self, row: Row, words: str) -> dict[str, Outcome]:
        right = self._answer(row)
        if self.score == "f1":
            return {"f1": Outcome(token_f1(words, right))}
        found = self._found(words)
        return {"pattern": Outcome(float(found is not None and found == (self._found(right) or right)))}

    def _found(self, words: str) -> str | None:
        """What the pattern finds last in a text."""
        matches = list(re.finditer(self.pattern or "", words))
        if not matches:
            return None
        last = matches[-1]
        return (last[1] if last.re.groups else last[0] or "").strip()


@dataclass(frozen=True)
class OwnText(Perplexity):
    """{"text": "…"}: loss a token on your own documents, each read from its beginning.

    Attributes:
        path: file of the rows.
        text: field with the document.
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.own.OwnText"
    dataset: Dataset = field(default_factory=lambda: Dataset("text"))
    min_characters: int = 1
    max_characters: int = 2000
    control_tokens: bool = False
    path: str = ""
    text: str = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_path(self)

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        return super().queries({"text": row.get(self.text)}, shots)
