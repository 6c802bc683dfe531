"""ARC-Easy (Clark et al., 2018): grade-school science by likelihood of the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.fields import options, text
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.base import Probe
from gdo_cli.stats.outcomes import Answer, Outcome


@dataclass(frozen=True)
class ARCEasy(Probe):
    """{"question": "…", "choices": {"text": [4], "label": ["A", …]}, "answerKey": "A"}

    As in lm-evaluation-harness: "Question: …\\nAnswer:" and the option with the highest
    log-likelihood (``likelihood``), or with the highest one a byte (``likelihood_norm``).
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.arc_easy.ARCEasy"
    headline: ClassVar[str] = "likelihood"

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        choices = options(row)
        if text(row, "answerKey") not in choices:
            raise RowError("answerKey is none of the options")
        prompt = "".join(
            f"Question: {text(s, 'question')}\nAnswer: {options(s)[text(s, 'answerKey')]}\n\n" for s in shots
        )
        prompt += f"Question: {text(row, 'question')}\nAnswer:"
        return [Query(prompt, f" {choice}", ends=False) for choice in choices.values()]

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        choices = options(row)
        right = list(choices).index(text(row, "answerKey"))
        sums = [a.logprob for a in answers]
        rates = [a.logprob / len(c.encode()) for a, c in zip(answers, choices.values(), strict=True)]
        return {
            "likelihood": Outcome(float(sums.index(max(sums)) == right)),
            "likelihood_norm": Outcome(float(rates.index(max(rates)) == right)),
        }
