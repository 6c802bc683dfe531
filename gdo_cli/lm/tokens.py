"""Text into tokens: prompts with BOS, answers with what ends them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# How the tokens of SentencePiece and byte-level vocabularies write a line break.
_NEWLINES = ("\n", "Ċ", "<0x0A>")


@dataclass(frozen=True)
class Query:
    """Text that is given and text that should follow it.

    ``ends``: whether it is asked, too, what the model would say after the continuation.
    ``control_tokens``: whether the names of control tokens in the text, such as WikiText's ``<unk>``, stand
    for these tokens. They do where someone has written the text for this model; in rows they are words.
    """

    context: str
    continuation: str
    ends: bool = True
    control_tokens: bool = False


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

    @cached_property
    def _control(self) -> dict[int, str]:
        """The tokens that stand for no text, by their ids, and what each is called."""
        return {i: t.content for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}

    def plain(self, text: str, control_tokens: bool = False) -> list[int]:
        """Return the tokens of a piece of text, without special tokens around it."""
        return self._all_plain([text], control_tokens)[0]

    def _all_plain(self, texts: list[str], control_tokens: bool) -> list[list[int]]:
        if not texts:
            return []
        wanted = {"add_special_tokens": False, "split_special_tokens": not control_tokens}
        found: list[list[int]] = self.tokenizer(texts, **wanted)["input_ids"]
        if control_tokens:
            return found
        return [
            ids if self._control.keys().isdisjoint(ids) else self._in_pieces(text, ids)
            for text, ids in zip(texts, found, strict=True)
        ]

    def _in_pieces(self, text: str, ids: list[int]) -> list[int]:
        """Tokens of a text in which some name of a control token was taken for it all the same.

        Unigram and WordPiece models look whole words up in a vocabulary that has those names, too. No piece
        holds one if each is cut behind its first character.
        """
        names = "|".join(map(re.escape, self._control.values()))
        cuts = [0, *(found.start() + 1 for found in re.finditer(f"(?={names})", text)), len(text)]
        if len(cuts) == 2:  # what no token knows, the unknown one stands for
            return ids
        pieces = [text[start:end] for start, end in pairwise(cuts)]
        wanted = {"add_special_tokens": False, "split_special_tokens": True}
        found: list[list[int]] = self.tokenizer(pieces, **wanted)["input_ids"]
        return [i for piece in found for i in piece]

    def __call__(self, query: Query) -> Encoded:
        return self.many([query])[0]

    def many(self, queries: list[Query]) -> list[Encoded]:
        """Encode many queries at once, which is faster."""
        encoded: dict[int, Encoded] = {}
        for control_tokens in (False, True):
            chosen = {n: q for n, q in enumerate(queries) if q.control_tokens is control_tokens}
            texts = [text for q in chosen.values() for text in (q.context, q.continuation)]
            found = iter(self._all_plain(texts, control_tokens))
            for (n, query), context, continuation in zip(chosen.items(), found, found, strict=True):
                encoded[n] = Encoded(self._bos + context, continuation, query.ends)
        return [encoded[n] for n in range(len(queries))]

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
