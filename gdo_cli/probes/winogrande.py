"""WinoGrande (Sakaguchi et al., 2020): which of two names fits the blank?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.fields import label, text
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.base import Probe
from gdo_cli.stats.outcomes import Answer, Outcome


@dataclass(frozen=True)
class WinoGrande(Probe):
    """{"sentence": "… so _ got the easier cases.", "option1": "Sarah", "option2": "Maria", "answer": "2"}

    Two scores of the same items. ``exact_match``: the model, shown solved examples, must answer with
    the right option and stop (format and knowledge; near zero is possible, as the paper reports).
    ``likelihood``: the option whose completed sentence ends more likely (knowledge; chance is 0.5),
    by partial evaluation as in lm-evaluation-harness: context = prefix + option, scored = the rest.
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.winogrande.WinoGrande"
    headline: ClassVar[str] = "exact_match"

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        prompt = "".join(f"{_question(s)} {_answer(s)}\n\n" for s in shots) + _question(row)
        before, after = _sentence(row)
        return [
            Query(prompt, f" {_answer(row)}"),
            *(Query(before + option, f" {after.strip()}", ends=False) for option in _options(row)),
        ]

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        exact, first, second = answers
        choice = "1" if first.logprob >= second.logprob else "2"
        return {
            "exact_match": Outcome(float(exact.exact)),
            "likelihood": Outcome(float(choice == row["answer"])),
        }


def _question(row: Row) -> str:
    first, second = _options(row)
    return f"Sentence: {text(row, 'sentence')}\nThe blank is {first} or {second}? Answer:"


def _options(row: Row) -> tuple[str, str]:
    return text(row, "option1"), text(row, "option2")


def _answer(row: Row) -> str:
    return _options(row)[int(label(row, "answer", ("1", "2"))) - 1]


def _sentence(row: Row) -> tuple[str, str]:
    before, blank, after = text(row, "sentence").partition("_")
    if not blank or not after.strip():
        raise RowError("field 'sentence' has no blank '_' with text after it")
    return before, after
