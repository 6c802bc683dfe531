"""A task turns a row into a prompt and an answer, and says how answers are scored.

To add one: a dataclass with ``example(row)`` here, and a YAML that names it under conf/task. A task
whose rows only need a template is YAML alone: see :mod:`gdo_cli.tasks.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.data.dataset import Dataset, Row
from gdo_cli.lm.markup import Turns, join
from gdo_cli.lm.tokens import Query
from gdo_cli.stats.metrics import EXACT_MATCH, SCORING, Metric
from gdo_cli.support.identity import IF_SET

ANSWERS = ("letter", "text")  # of the right option, where a task offers options


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that should follow it. The answer brings its leading space along.

    ``turns``: the chat that the prompt is, for tokenizers with a chat template.
    ``weight``: how much it counts in the loss.
    """

    prompt: str
    answer: str
    turns: Turns = ()
    weight: float = 1.0

    def query(self, shown: Sequence[Example] = ()) -> Query:
        """Return what a model is asked, with solved examples in front of it."""
        before = join([part for e in shown for part in (e.prompt, e.answer, "\n\n")])
        chats = [(*e.turns, ("assistant", e.answer.strip())) for e in (*shown, self) if e.turns]
        turns = tuple(turn for chat in chats for turn in chat)
        return Query(before + self.prompt, self.answer, turns=turns, weight=self.weight)


@dataclass(frozen=True)
class Task:
    """Base of all tasks.

    Attributes:
        metric: what answers are scored by; the paper's is "exact string match between the model's output
            and the ground truth".
        multiline: whether answers may hold line breaks; if not, a line break ends them.
    """

    dataset: Dataset
    metric: ClassVar[Metric] = EXACT_MATCH
    multiline: ClassVar[bool] = False

    def example(self, row: Row) -> Example:
        """Return prompt and answer of a row.

        Raises:
            RowError: a field is missing, empty or not what it should be.
        """
        raise NotImplementedError

    def examples(self, row: Row) -> list[Example]:
        """Return all that is learnt of a row; one example, but for conversations."""
        return [self.example(row)]


@dataclass(frozen=True)
class ScoredTask(Task):
    """A task whose metric has settings, as sacrebleu has them; they stand in the signature that runs record.

    Attributes:
        tokenize: what BLEU takes for words, e.g. ``zh``, ``ja-mecab``, ``char``
            (:data:`gdo_cli.stats.wording.TOKENIZERS`).
        lowercase: whether case counts for nothing.
        smooth_method: of BLEU's counts of n-grams that are 0.
    """

    tokenize: str = field(default=SCORING["tokenize"], metadata=IF_SET)
    lowercase: bool = field(default=SCORING["lowercase"], metadata=IF_SET)
    smooth_method: str = field(default=SCORING["smooth_method"], metadata=IF_SET)
