"""Loss on running text (WikiText-2): how well the model still predicts ordinary prose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.data.dataset import Row, RowError
from gdo_cli.lm.markup import Markup
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.base import Probe
from gdo_cli.stats.outcomes import Answer, Outcome
from gdo_cli.support.identity import IF_SET


@dataclass(frozen=True)
class Perplexity(Probe):
    """{"text": "In 2006 , <unk> starred alongside …"}

    ``loss``: nats a token over all tokens of the chosen paragraphs, each read on its own from BOS;
    perplexity is its exponential. Headings and blank lines are left out by ``min_characters``.
    ``kl``: KL(base ‖ model) over the same tokens, in nats a token, if asked for.

    Attributes:
        min_characters: shortest paragraph that counts.
        max_characters: where a paragraph is cut.
        control_tokens: whether WikiText's ``<unk>`` and the like stand for the tokens of these names, as they
            did in the first runs, where they make a quarter of the loss; if not, they are text.
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.perplexity.Perplexity"
    min_characters: int = 200
    max_characters: int = 1200
    control_tokens: bool = field(default=True, metadata=IF_SET)
    kl: bool = field(default=False, metadata=IF_SET)
    headline: ClassVar[str] = "loss"

    @property
    def measures(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("loss", "kl") if self.kl else ("loss",)

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        content = row.get("text")
        if not isinstance(content, str):
            raise RowError("field 'text' is missing or no text")
        content = content.strip()
        if len(content) < self.min_characters:
            return []
        asked = content[: self.max_characters]
        return [Query("", Markup(asked) if self.control_tokens else asked, ends=False)]

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        (answer,) = answers
        return {"loss": Outcome(-answer.logprob / answer.n_tokens, answer.n_tokens)}
