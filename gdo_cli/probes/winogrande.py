"""WinoGrande (Sakaguchi et al., 2020): which of two names fits the blank?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.fields import label, text
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.base import Probe
from gdo_cli.stats.outcomes import Answer, Outcome
from gdo_cli.support.errors import require
from gdo_cli.support.identity import IF_SET


@dataclass(frozen=True)
class WinoGrande(Probe):
    """{"sentence": "… so _ got the easier cases.", "option1": "Sarah", "option2": "Maria", "answer": "2"}

    Two ways of asking the same items. ``exact_match``: the model, shown solved examples, must answer with
    the right option and stop (near zero is possible, as the paper reports). It is the product of
    format, ``named``: either option and a stop, and knowledge, ``named_right``: the right one, of those.
    ``likelihood``: the option whose completed sentence ends more likely (knowledge alone; chance is 0.5),
    by partial evaluation as in lm-evaluation-harness: context = prefix + option, scored = the rest.

    Attributes:
        words: tokens of the model's own answer that predictions keep where it names no option; 0 for none.
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.winogrande.WinoGrande"
    headline: ClassVar[str] = "exact_match"
    measures: ClassVar[tuple[str, ...]] = ("exact_match", "named", "likelihood")
    words: int = field(default=0, metadata=IF_SET)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.words >= 0, f"words={self.words} of a probe: must not be negative")

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        prompt = "".join(f"{_question(s)} {_answer(s)}\n\n" for s in shots) + _question(row)
        before, after = _sentence(row)
        return [
            *(Query(prompt, f" {option}") for option in _right_first(row)),
            *(Query(before + option, f" {after.strip()}", ends=False) for option in _options(row)),
        ]

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        right, wrong, first, second = answers
        choice = "1" if first.logprob >= second.logprob else "2"
        named = float(right.exact or wrong.exact)
        return {
            "exact_match": Outcome(float(right.exact)),
            "named": Outcome(named),
            "named_right": Outcome(float(right.exact), weight=named),
            "likelihood": Outcome(float(choice == row["answer"])),
        }

    def wants_words(self, answers: list[Answer]) -> bool:
        return self.words > 0 and not any(answer.exact for answer in answers[:2])


def _question(row: Row) -> str:
    first, second = _options(row)
    return f"Sentence: {text(row, 'sentence')}\nThe blank is {first} or {second}? Answer:"


def _options(row: Row) -> tuple[str, str]:
    return text(row, "option1"), text(row, "option2")


def _answer(row: Row) -> str:
    return _right_first(row)[0]


def _right_first(row: Row) -> tuple[str, str]:
    first, second = _options(row)
    return (first, second) if label(row, "answer", ("1", "2")) == "1" else (second, first)


def _sentence(row: Row) -> tuple[str, str]:
    before, blank, after = text(row, "sentence").partition("_")
    if not blank or not after.strip():
        raise RowError("field 'sentence' has no blank '_' with text after it")
    return before, after
