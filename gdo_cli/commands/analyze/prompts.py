"""Few-shot prompts of a task, clean and with the answers of their examples shuffled."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.run_data import RunData
from gdo_cli.lm.tokens import Encoded, Encoder
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.base import Example


@dataclass(frozen=True)
class Sample:
    """Prompts to measure one model on; the tokens of the right answer are the queries' continuations.

    Attributes:
        clean: for what the heads give when the task is shown.
        shuffled: for what a head can restore; other questions than the clean ones.
    """

    clean: list[Encoded]
    shuffled: list[Encoded]

    def __len__(self) -> int:
        return len(self.clean) + len(self.shuffled)

    def content(self) -> list[Any]:
        """Return the tokens, as plain data."""
        return [[(q.context, q.continuation) for q in part] for part in (self.clean, self.shuffled)]


def all_questions(config: RunConfig) -> RunConfig:
    """Return the configuration that reads every row of the run's task, and no probe."""
    everything = replace(config.evaluation, items=None, final_items=0)
    return replace(config, probe={}, evaluation=everything)


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
        if len(self.solved) < shots:
            raise UserError(f"--shots {shots}: the training split has {len(self.solved)} examples")
        if not shots and len(self.questions) < n_clean:
            raise UserError(f"--prompts {n_clean}: the validation split has {len(self.questions)} questions")
        draw = random.Random(f"prompts/{seed}")
        questions = draw.sample(self.questions, len(self.questions))
        needed = n * (n_clean + n_shuffled)
        questions = (questions * (needed // len(questions) + 1))[:needed]
        made = []
        for _ in range(n):
            clean, shuffled, questions = (
                questions[:n_clean],
                questions[n_clean : n_clean + n_shuffled],
                questions[n_clean + n_shuffled :],
            )
            made.append(
                Sample(
                    [self._prompt(draw, question, shots, False) for question in clean],
                    [self._prompt(draw, question, shots, True) for question in shuffled],
                )
            )
        return made

    def _prompt(self, draw: random.Random, question: Example, shots: int, shuffled: bool) -> Encoded:
        solved = draw.sample(self.solved, shots)
        answers = [e.answer for e in solved]
        if shuffled:
            draw.shuffle(answers)
        shown = "".join(f"{e.prompt}{answer}\n\n" for e, answer in zip(solved, answers, strict=True))
        return self.encoder(question.query(shown))
