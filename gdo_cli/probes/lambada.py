"""LAMBADA (Paperno et al., 2016): the last word of a passage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.data.fields import text
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.base import Probe
from gdo_cli.stats.outcomes import Answer, Outcome


@dataclass(frozen=True)
class Lambada(Probe):
    """{"context": "… I don't care about", "target": "signs"}, or {"text": "… about signs"}

    ``last_word``: every token of the word is the likeliest (what follows it does not matter).
    ``loss``: nats a word.
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.lambada.Lambada"
    headline: ClassVar[str] = "last_word"
    measures: ClassVar[tuple[str, ...]] = ("last_word", "loss")
    chance: ClassVar[float | None] = 0.0

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        if "context" in row:
            return [Query(text(row, "context"), f" {text(row, 'target')}", ends=False)]
        context, _, target = text(row, "text").rpartition(" ")
        if not context:
            raise RowError("field 'text' is a single word")
        return [Query(context, f" {target}", ends=False)]

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        (answer,) = answers
        return {"last_word": Outcome(float(answer.greedy)), "loss": Outcome(-answer.logprob)}
