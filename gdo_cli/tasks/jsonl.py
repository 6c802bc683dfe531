"""A user's own JSON Lines file: prompt and completion, or chat messages, by YAML alone."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gdo_cli.data.dataset import Dataset, Row, RowError
from gdo_cli.data.fields import is_blank, text
from gdo_cli.lm.markup import Markup, Turns
from gdo_cli.lm.tokens import LINE_BREAK
from gdo_cli.stats.metrics import EXACT_MATCH, METRICS, Metric
from gdo_cli.support.errors import UserError, require, require_one_of
from gdo_cli.support.identity import IF_SET
from gdo_cli.tasks.base import Example, ScoredTask

# What chat templates write, or training weighs, of a message beside its content; of a row beside its chat.
_OF_MESSAGES = (
    "tool_calls",
    "tool_call_id",
    "function_call",
    "reasoning_content",
    "reasoning",
    "thinking",
    "name",
    "weight",
)
_OF_ROWS = ("tools", "functions", "documents", "chat_template_kwargs", "weight")


@dataclass(frozen=True)
class JSONL(ScoredTask):
    r"""Rows of any fields, turned into text by templates in Python's format notation.

    In templates ``\n`` is a line break, ``\t`` a tab and ``\\`` a backslash, wherever they are written:
    quotes of the command line and of YAML leave them as they are, or not.
    Control tokens that templates name (``<start_of_turn>``) are these; what rows name are words.

    Attributes:
        path: file or folder of the rows; a file is split by the slices in ``dataset.splits``.
        prompt: template of the prompt, e.g. ``"Question: {question}\nAnswer:"``.
        completion: template of the answer, e.g. ``"{answer}"``; its leading space is added.
        messages: field with a chat (``[{"role": …, "content": …}, …]``, the last one the answer),
            used instead of the templates when set. A row whose only text is a chat, in TRL's columns
            ``messages`` or ``prompt`` and ``completion``, is read without it.
        answers: of a chat, what is learnt: its ``last`` answer, or ``all`` answers of the assistant. What is
            measured is the last.
        weight: field with a number above 0, how much the row counts in the loss; none by default.
        score: a name in :data:`gdo_cli.stats.metrics.METRICS`.
        lines: ``one``: a line break ends an answer; ``many``: only the end of sequence does.
    """

    identity_name: ClassVar[str] = "gdo_cli.tasks.jsonl.JSONL"
    dataset: Dataset = field(default_factory=lambda: Dataset("jsonl"))
    path: str = ""
    prompt: str = "{prompt}"
    completion: str = "{completion}"
    messages: str | None = None
    answers: str = field(default="last", metadata=IF_SET)
    weight: str | None = field(default=None, metadata=IF_SET)
    score: str = EXACT_MATCH.name
    lines: str = "one"
    max_new_tokens: int = 96

    def __post_init__(self) -> None:
        require_one_of("task.score", self.score, METRICS)
        require_one_of("task.lines", self.lines, ("one", "many"))
        require_one_of("task.answers", self.answers, ("last", "all"))
        require(bool(self.path), "task.path: name the file, e.g. task=jsonl task.path=my.jsonl")
        require(self.max_new_tokens > 0, f"task.max_new_tokens={self.max_new_tokens}: must be positive")
        _ = self.metric  # refuses what it cannot have
        for key in ("prompt", "completion"):
            # A run's id is made of this form; read once more, as from its record, it is the same.
            template = re.sub(r"\\([nt\\])", _unescaped, getattr(self, key))
            object.__setattr__(self, key, template)
            _check_template(f"task.{key}", template)

    @property
    def metric(self) -> Metric:  # type: ignore[override]
        return METRICS[self.score].with_settings(vars(self))

    @property
    def multiline(self) -> bool:  # type: ignore[override]
        return self.lines == "many"

    def example(self, row: Row) -> Example:
        chat = self._turns(row)
        return self._finished(row, self._templates(row) if chat is None else _answered(chat))

    def examples(self, row: Row) -> list[Example]:
        chat = self._turns(row) if self.answers == "all" else None
        if chat is None:
            return [self.example(row)]
        ends = [place for place, (role, _) in enumerate(chat, 1) if role == "assistant" and place > 1]
        return [self._finished(row, _answered(chat[:end])) for end in ends]

    def _finished(self, row: Row, example: Example) -> Example:
        if LINE_BREAK.search(example.answer) and not self.multiline:
            raise RowError("the answer has several lines (task.lines=many allows that)")
        return example if self.weight is None else replace(example, weight=_positive(row, self.weight))

    def _templates(self, row: Row) -> Example:
        prompt, completion = _fill(self.prompt, row).rstrip(" "), _fill(self.completion, row).strip()
        if is_blank(completion):
            raise RowError("the completion is empty")
        return Example(prompt, completion if prompt.endswith("\n") else " " + completion)

    def _turns(self, row: Row) -> Turns | None:
        """The chat of a row, checked; None if the templates make its text."""
        key, turns = self._chat_of(row)
        if key is None:
            return None
        if unread := _unread(row, [name for name in _OF_ROWS if name != self.weight]):
            raise RowError(f"{unread!r} stands beside the messages, which alone are read")
        if not isinstance(turns, list) or len(turns) < 2:
            raise RowError(f"field {key!r} needs a list of at least two messages")
        for turn in turns:
            if not isinstance(turn, dict):
                raise RowError(f"field {key!r} holds something that is no message")
            if unread := _unread(turn, _OF_MESSAGES):
                raise RowError(f"a message has {unread!r}; 'role' and 'content' alone are read")
        if turns[-1].get("role") != "assistant":
            raise RowError("the last message must be the assistant's")
        return tuple((text(turn, "role"), text(turn, "content")) for turn in turns)

    def _chat_of(self, row: Row) -> tuple[str | None, Any]:
        """The field that a chat is in, and the chat: the one that was named, or TRL's columns."""
        if self.messages is not None:
            return self.messages, row.get(self.messages)
        if (self.prompt, self.completion) != ("{prompt}", "{completion}"):
            return None, None  # templates of one's own
        prompt, completion = row.get("prompt"), row.get("completion")
        if isinstance(prompt, list) and isinstance(completion, list):
            return "prompt", [*prompt, *completion]
        if prompt is None and isinstance(row.get("messages"), list):
            return "messages", row["messages"]
        return None, None


def _answered(chat: Turns) -> Example:
    """The last message of a chat as the answer to the others; as plain text where there is no template."""
    lines = [f"{role.capitalize()}: {said}" for role, said in chat[:-1]]
    return Example("\n".join([*lines, "Assistant:"]), f" {chat[-1][1]}", chat[:-1])


def _positive(row: Row, key: str) -> float:
    value = row.get(key)
    try:
        found = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise RowError(f"field {key!r} is {value!r}, not a number above 0; leave rows out that do not count")
    return found


def _unread(content: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of the keys that says something: what is empty, and a weight of one, says nothing."""
    says = (key for key in keys if (content.get(key, 1) != 1 if key == "weight" else content.get(key)))
    return next(says, None)


def _unescaped(found: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t"}.get(found[1], found[0])


def _check_template(key: str, template: str) -> None:
    """Only plain fields: ``{name}``; no conversions, formats, attributes or indices."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{key}={template!r}: not a template: {error}") from error
    for _, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise UserError(f"{key}={template!r}: {{{name}}} must be the plain name of a field")


def _fill(template: str, row: Row) -> Markup:
    """The template with the row's fields; numbers are written as they are."""
    filled = Markup()
    for literal, name, _, _ in string.Formatter().parse(template):
        filled += Markup(literal.replace("\\\\", "\\"))
        if name is not None:
            value = row.get(name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            filled += str(value) if number else text(row, name)
    return filled
