"""Questions with options, answered by the likelihood of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.base import Probe
from gdo_cli.stats.outcomes import Answer, Outcome


@dataclass(frozen=True)
class Question:
    """A question, what it may be answered with, and the place of the right option."""

    text: str
    options: list[str]
    right: int


@dataclass(frozen=True)
class MultipleChoice(Probe):
    """Questions with options.

    As in lm-evaluation-harness: "Question: …\\nAnswer:" and the option with the highest
    log-likelihood (``likelihood``), or with the highest one a byte (``likelihood_norm``).
    """

    headline: ClassVar[str] = "likelihood"
    measures: ClassVar[tuple[str, ...]] = ("likelihood", "likelihood_norm")

    def asked(self, row: Row) -> Question:
        """Return what a row asks.

        Raises:
            RowError: the row cannot be used.
        """
        raise NotImplementedError

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        asked = self.asked(row)
        solved = [self.asked(shot) for shot in shots]
        prompt = "".join(f"Question: {s.text}\nAnswer: {s.options[s.right]}\n\n" for s in solved)
        prompt += f"Question: {asked.text}\nAnswer:"
        return [Query(prompt, f" {option}", ends=False) for option in asked.options]

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        asked = self.asked(row)
        sums = [a.logprob for a in answers]
        rates = [a.logprob / len(o.encode()) for a, o in zip(answers, asked.options, strict=True)]
        return {
            "likelihood": Outcome(float(sums.index(max(sums)) == asked.right)),
            "likelihood_norm": Outcome(float(rates.index(max(rates)) == asked.right)),
        }
