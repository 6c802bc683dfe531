"""Text into tokens: prompts with BOS, answers with what ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# How the tokens of SentencePiece and byte-level vocabularies write a line break.
_NEWLINES = ("\n", "Ċ", "<0x0A>")


@dataclass(frozen=True)
class Query:
    """Text that is given and text that should follow it.

    ``ends``: whether it is asked, too, what the model would say after the continuation.
    """

    context: str
    continuation: str
    ends: bool = True


@dataclass(frozen=True)
class Encoded:
    """A query in tokens; the context holds at least one token, BOS where the model has one."""

    context: list[int]
    continuation: list[int]
    ends: bool = True

    @property
    def asked(self) -> range:
        """The places whose next token is asked, counted from the beginning of the context."""
        return range(len(self.context) - 1, len(self) - (not self.ends))

    def __len__(self) -> int:
        return len(self.context) + len(self.continuation)


@dataclass(frozen=True)
class Encoder:
    """Tokenizes prompts and answers apart, so that training and every scorer see the same tokens."""

    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, eos_ids: list[int]) -> Encoder:
        """``eos_ids`` are the model's own ends of sequence, added to the tokenizer's."""
        ends = {int(i) for i in eos_ids}
        if tokenizer.eos_token_id is not None:
            ends.add(int(tokenizer.eos_token_id))
        return cls(tokenizer, frozenset(ends))

    @property
    def eos_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def ends(self, multiline: bool) -> frozenset[int]:
        """Return the tokens that end an answer, which may or may not go over several lines."""
        return self.stop_ids if multiline else self.answer_ends

    @cached_property
    def answer_ends(self) -> frozenset[int]:
        """Every token that ends a one-line answer: ends of sequence, and all that begin a new line.

        A tuned model ends with EOS where a few-shot prompt taught a line break; both are accepted.
        """
        lines = (i for t, i in self.tokenizer.get_vocab().items() if t.lstrip("▁Ġ ").startswith(_NEWLINES))
        return self.stop_ids | frozenset(lines)

    @cached_property
    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        # A missing BOS ruins a Gemma (LAMBADA 0.67 → 0.004), so it does not hang on the
        # tokenizer's post-processor; models without one start from their end of sequence.
        return [int(bos if bos is not None else self.eos_id)]

    def plain(self, text: str) -> list[int]:
        """Return the tokens of a piece of text, without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def __call__(self, query: Query) -> Encoded:
        context, continuation = self.plain(query.context), self.plain(query.continuation)
        return Encoded(self._bos + context, continuation, query.ends)

    def many(self, queries: list[Query]) -> list[Encoded]:
        """Encode many queries at once, which is faster."""
        if not queries:
            return []
        texts = [q.context for q in queries] + [q.continuation for q in queries]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        half = len(queries)
        return [
            Encoded(self._bos + context, continuation, query.ends)
            for context, continuation, query in zip(ids[:half], ids[half:], queries, strict=True)
        ]

    def parse(self, ids: list[int], ends: frozenset[int]) -> str:
        """Return the answer in generated tokens: all before the first that ends it."""
        stop = next((n for n, i in enumerate(ids) if i in ends), len(ids))
        return str(self.tokenizer.decode(ids[:stop], skip_special_tokens=True))


class LazilyEncoded(Sequence[Encoded]):
    """Queries in tokens, made when they are asked for: a run of 300 steps sees a fifth of SciTail."""

    def __init__(self, encoder: Encoder, queries: list[Query]) -> None:
        self._encoder, self._queries = encoder, queries

    def __len__(self) -> int:
        return len(self._queries)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return self._encoder.many(self._queries[index])
        return self._encoder(self._queries[index])


def end_ids(model: PreTrainedModel) -> list[int]:
    """Return the tokens that end a sequence for this model (``generation_config`` may name several)."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    if ids is None:
        return []
    return list(ids) if isinstance(ids, (list, tuple)) else [int(ids)]
