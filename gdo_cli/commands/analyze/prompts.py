"""Few-shot prompts of a task, clean and with the answers of their examples shuffled."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import cycle

from gdo_cli.evaluation.run_data import RunData
from gdo_cli.lm.tokens import Encoded, Encoder
from gdo_cli.support.errors import require
from gdo_cli.tasks.base import Example


@dataclass(frozen=True)
class Sample:
    """Prompts to measure one model on; the tokens of the right answer are the queries' continuations."""

    clean: list[Encoded]  # for what the heads give when the task is shown
    shuffled: list[Encoded]  # for what a head can restore; other questions than the clean ones

    def __len__(self) -> int:
        return len(self.clean) + len(self.shuffled)


class TaskPrompts:
    """The examples of a run's task that prompts are made of: solved ones from the training split,
    questions from the validation split, all of them."""

    def __init__(self, data: RunData, encoder: Encoder, max_length: int) -> None:
        self.encoder = encoder
        self.longest = max_length - 1  # the end of sequence comes on top
        self.solved = self._within_length(data.train)
        self.questions = self._within_length(data.validation)

    def _within_length(self, examples: list[Example]) -> list[Example]:
        encoded = self.encoder.many([e.query() for e in examples])
        return [e for e, q in zip(examples, encoded, strict=True) if len(q) <= self.longest]

    def samples(self, n: int, shots: int, n_clean: int, n_shuffled: int, seed: int) -> list[Sample]:
        """Return n samples with questions of their own, as far as there are enough; each prompt with its own
        solved examples.

        Raises:
            UserError: fewer solved examples than shots, or fewer questions than prompts without any.
        """
        n_solved, n_asked = len(self.solved), len(self.questions)
        require(n_solved >= shots, f"--shots {shots}: the training split has {n_solved} examples")
        enough = shots or n_asked >= n_clean
        require(bool(enough), f"--prompts {n_clean}: the validation split has {n_asked} questions")
        draw = random.Random(f"prompts/{seed}")
        questions = cycle(draw.sample(self.questions, n_asked))
        return [
            Sample(
                [self._prompt(draw, next(questions), shots, False) for _ in range(n_clean)],
                [self._prompt(draw, next(questions), shots, True) for _ in range(n_shuffled)],
            )
            for _ in range(n)
        ]

    def _prompt(self, draw: random.Random, question: Example, shots: int, shuffled: bool) -> Encoded:
        solved = draw.sample(self.solved, shots)
        answers = [e.answer for e in solved]
        if shuffled:
            draw.shuffle(answers)
        shown = [replace(e, answer=answer) for e, answer in zip(solved, answers, strict=True)]
        return self.encoder(question.query(shown))
