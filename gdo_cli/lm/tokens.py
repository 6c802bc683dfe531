"""Text into tokens: prompts with BOS, answers with what ends them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, overload

from gdo_cli.lm.markup import Turns, is_markup, places_of, render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LINE_BREAK = re.compile(r"[\r\n]")
# How the tokens of SentencePiece and byte-level vocabularies may write a line break; others are asked.
_NEWLINES = ("\n", "\r", "Ċ", "č", "<0x0A>", "<0x0D>")


@dataclass(frozen=True)
class Query:
    """Text that is given and text that should follow it.

    Names of control tokens in either, such as WikiText's ``<unk>``, are words, but where the text is
    :class:`~gdo_cli.lm.markup.Markup`.

    ``ends``: whether it is asked, too, what the model would say after the continuation.
    ``turns``: both as a chat, for tokenizers with a chat template; without one the texts are asked.
    ``weight``: how much it counts in the loss.
    """

    context: str
    continuation: str
    ends: bool = True
    turns: Turns = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Encoded:
    """A query in tokens; the context holds at least one token, BOS where the model has one.

    ``end``: the token that ends the continuation in training; None for the model's end of sequence.
    ``weight``: how much it counts in the loss.
    """

    context: list[int]
    continuation: list[int]
    ends: bool = True
    end: int | None = None
    weight: float = 1.0

    @property
    def asked(self) -> range:
        """The places whose next token is asked, counted from the beginning of the context."""
        return range(len(self.context) - 1, len(self) - (not self.ends))

    def __len__(self) -> int:
        return len(self.context) + len(self.continuation)


@dataclass(frozen=True)
class Ends:
    """What ends an answer: ends of sequence, and a line break if it may have one line only.

    Attributes:
        stops: tokens that end a sequence.
        breaks: tokens with a line break somewhere in their text (``.\\n`` is one token of Llama 3); what
            stands before it is the answer's.
    """

    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]
    breaks: frozenset[int] = frozenset()

    @cached_property
    def tokens(self) -> frozenset[int]:
        """Every token with which an answer ends."""
        return self.stops | self.breaks

    def parse(self, ids: Sequence[int]) -> str:
        """Return the answer in generated tokens: all before its end."""
        last = next((n for n, i in enumerate(ids) if i in self.tokens), len(ids))
        if last == len(ids) or ids[last] in self.stops:
            return self._text(ids[:last])
        return LINE_BREAK.split(self._text(ids[: last + 1]), maxsplit=1)[0]

    def complete(self, answer: list[int], likeliest: list[int]) -> bool:
        """Return whether greedy decoding would say the answer, in these tokens, and end.

        Args:
            likeliest: the likeliest token at each place of the answer and after it.
        """
        same = next(
            (n for n, (a, b) in enumerate(zip(answer, likeliest, strict=False)) if a != b), len(answer)
        )
        last = likeliest[same]
        unknown = self.tokenizer.unk_token_id
        if unknown in answer and unknown not in self.stops:  # whatever it stands for, it does not say it
            return False
        if last in self.stops:
            return same == len(answer)
        # The token that differs, or comes after the last, may hold the answer's end and a line break.
        return (
            last in self.breaks and self.parse([*answer[:same], last]).strip() == self._text(answer).strip()
        )

    def _text(self, ids: Sequence[int]) -> str:
        wanted = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(ids, **wanted))


@dataclass(frozen=True)
class Encoder:
    """Puts prompts and answers into tokens, the same ones for training, every scorer and generation.

    A context is put into tokens on its own, as generation has to. Its continuation is what the tokens of
    the joined text go on with. Where a token of that would span the seam, the continuation stands on its
    own, too.
    """

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

    @cached_property
    def ignores_case(self) -> bool:
        """Whether capitals are put into tokens as small letters."""
        capitals, small = self._words([*ascii_uppercase]), self._words([*ascii_lowercase])
        return capitals == small and len({*map(tuple, small)}) > 1  # one: it knows none

    def ends(self, multiline: bool) -> Ends:
        """Return what ends an answer, which may or may not go over several lines."""
        return self.sequence_ends if multiline else self.answer_ends

    @cached_property
    def sequence_ends(self) -> Ends:
        """Ends of sequence alone."""
        return Ends(self.tokenizer, self.stop_ids)

    @cached_property
    def answer_ends(self) -> Ends:
        """What ends a one-line answer: ends of sequence, and every token with a line break in it.

        A tuned model ends with EOS where a few-shot prompt taught a line break; both are accepted.
        """
        vocabulary = self.tokenizer.get_vocab()
        own = set(filter(self._breaks_line, self.plain("\n")))
        names = (*_NEWLINES, *(t for t, i in vocabulary.items() if i in own))
        named = [i for t, i in vocabulary.items() if any(n in t for n in names)]
        breaks = frozenset(filter(self._breaks_line, named))
        return Ends(self.tokenizer, self.stop_ids, breaks - self.stop_ids)

    def _breaks_line(self, token: int) -> bool:
        # Between two letters: some tokenizers strip the text that they decode.
        ids = [*self._letter, token, *self._letter]
        return LINE_BREAK.search(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)) is not None

    @cached_property
    def _letter(self) -> list[int]:
        return self.plain("a")

    @cached_property
    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        # A missing BOS ruins a Gemma (LAMBADA 0.67 → 0.004), so it does not hang on the
        # tokenizer's post-processor; models without one start from their end of sequence.
        return [int(bos if bos is not None else self.eos_id)]

    @cached_property
    def _control(self) -> dict[str, int]:
        """The tokens that stand for no text, by what each is called."""
        named = dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))
        return named | {t.content: i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self._control.values())

    @cached_property
    def _names(self) -> re.Pattern[str]:
        longest_first = sorted(filter(None, self._control), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def plain(self, text: str) -> list[int]:
        """Return the tokens of a piece of text, without special tokens around it."""
        return self._all_plain([text])[0]

    def _all_plain(self, texts: list[str]) -> list[list[int]]:
        kinds = [self._kind(text) for text in texts]
        found: dict[int, list[int]] = {}
        for kind, read in (("words", self._words), ("control", self._marked)):
            chosen = [n for n, k in enumerate(kinds) if k == kind]
            found |= zip(chosen, read([texts[n] for n in chosen]), strict=True)
        found |= {n: list(self._mixed(texts[n])) for n, k in enumerate(kinds) if k == "both"}
        return [found[n] for n in range(len(texts))]

    def _kind(self, text: str) -> str:
        """Whether names of control tokens in a text are words, stand for these tokens, or there are both."""
        kinds = {is_markup(text, *name.span()) for name in self._names.finditer(text)}
        return "both" if len(kinds) == 2 else "control" if True in kinds else "words"

    def _ids(self, texts: list[str], control: bool) -> list[list[int]]:
        wanted = {"add_special_tokens": False, "split_special_tokens": not control}
        found: list[list[int]] = (
            self.tokenizer([str(t) for t in texts], **wanted)["input_ids"] if texts else []
        )
        return found

    def _marked(self, texts: list[str]) -> list[list[int]]:
        return self._ids(texts, control=True)

    def _words(self, texts: list[str]) -> list[list[int]]:
        found = zip(texts, self._ids(texts, control=False), strict=True)
        return [
            ids if self._control_ids.isdisjoint(ids) else self._in_pieces(text, ids) for text, ids in found
        ]

    def _in_pieces(self, text: str, ids: list[int]) -> list[int]:
        """Tokens of a text in which some name of a control token was taken for it all the same.

        Unigram and WordPiece models look whole words up in a vocabulary that has those names, too. No piece
        holds one if each is cut behind its first character.
        """
        cuts = [
            0,
            *(found.start() + 1 for found in re.finditer(f"(?={self._names.pattern})", text)),
            len(text),
        ]
        if len(cuts) == 2:  # what no token knows, the unknown one stands for
            return ids
        first, *rest = (text[start:end] for start, end in pairwise(cuts))
        return [*self._ids([first], control=False)[0], *(i for piece in rest for i in self._behind(piece))]

    def _mixed(self, text: str) -> Iterator[int]:
        """Tokens of a text in which some names are control tokens and some are words."""
        done = 0
        for name in self._names.finditer(text):
            if is_markup(text, *name.span()):
                piece = text[done : name.start()]
                yield from self._behind(piece) if done else self._words([piece])[0]
                yield self._control[name.group()]
                done = name.end()
        yield from self._behind(text[done:])

    def _behind(self, text: str) -> list[int]:
        """Tokens of a text that goes on behind another: no prefix is put in front of it, as many
        SentencePiece vocabularies put a space in front of all text."""
        before, both = self._words(["\n", f"\n{text}"]) if text else ([], [])
        return both[len(before) :] if both[: len(before)] == before else self._words([text])[0]

    def __call__(self, query: Query) -> Encoded:
        return self.many([query])[0]

    def many(self, queries: Sequence[Query]) -> list[Encoded]:
        """Encode many queries at once, which is faster.

        Raises:
            UserError: a chat that the tokenizer's chat template refuses.
        """
        rendered = [self._rendered(query) for query in queries]
        texts = [query.context + query.continuation for query, _ in rendered]
        # Few-shot examples, or the options of one question, make many contexts the same one.
        distinct = {(q.context, places_of(q.context)): q.context for q, _ in rendered}
        ids = self._all_plain([*texts, *distinct.values()])
        contexts = dict(zip(distinct, ids[len(texts) :], strict=True))
        found = []
        for (query, end), both in zip(rendered, ids, strict=False):
            context = contexts[query.context, places_of(query.context)]
            n = len(context)
            rest = both[n:] if both[:n] == context else self._behind(query.continuation)
            start = [] if context[:1] == self._bos else self._bos  # a chat template may write one
            found.append(Encoded(start + context, rest, query.ends, end, query.weight))
        return found

    def _rendered(self, query: Query) -> tuple[Query, int | None]:
        """The query as the tokenizer's chat template writes it, and the token that ends the answer there."""
        if not (query.turns and self.tokenizer.chat_template):
            return query, None
        context, answer, after = render_chat(self.tokenizer, query.turns)
        ends = (self._control[name.group()] for name in self._names.finditer(after))
        end = next((i for i in ends if i in self.stop_ids), None)
        return replace(query, context=context, continuation=answer), end


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
