"""Text that was written for a model: where names of control tokens stand for these, and chats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gdo_cli.support.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = tuple[str, str]  # role, what was said
Turns = tuple[Turn, ...]
# Stands for what was said while a template is rendered, so that what the template itself writes is known.
_SAID = "\ue000{}\ue001"


class Markup(str):
    """Text that someone wrote for this model; plain text that is added to it stays words, as with MarkupSafe.

    Attributes:
        places: where (start, end in characters) names of control tokens stand for these tokens.
    """

    places: tuple[tuple[int, int], ...]

    def __new__(cls, text: str = "", places: tuple[tuple[int, int], ...] | None = None) -> Markup:
        """``places``: None for all of the text."""
        made = super().__new__(cls, text)
        made.places = ((0, len(text)),) if places is None else places
        return made

    def __add__(self, other: str) -> Markup:
        behind = tuple((start + len(self), end + len(self)) for start, end in places_of(other))
        return Markup(str(self) + str(other), self.places + behind)

    def __radd__(self, other: str) -> Markup:
        return Markup(other, ()) + self

    def rstrip(self, chars: str | None = None) -> Markup:
        return Markup(super().rstrip(chars), self.places)

    def strip(self, chars: str | None = None) -> Markup:
        cut = len(self) - len(super().lstrip(chars))
        places = tuple((max(start - cut, 0), end - cut) for start, end in self.places if end > cut)
        return Markup(super().strip(chars), places)


def places_of(text: str) -> tuple[tuple[int, int], ...]:
    """Return where names of control tokens stand for these tokens; nowhere in plain text."""
    return text.places if isinstance(text, Markup) else ()


def render_chat(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> tuple[Markup, str]:
    """Return a chat up to what is said last, as the tokenizer's template writes it, and what it writes then.

    What was said is words, whatever it names.

    Raises:
        UserError: the template refuses the roles or their order, or leaves a message out.
    """
    said = [content.strip() for _, content in turns]
    messages = [{"role": role, "content": _SAID.format(n)} for n, (role, _) in enumerate(turns)]
    roles = ", ".join(role for role, _ in turns)
    try:
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template raises what it likes
        raise UserError(
            f"task.messages: the tokenizer's chat template refuses a chat of {roles}: {first_line(error)}"
        ) from error
    written = re.split(_SAID.format(r"(\d+)"), str(prompt))
    if [int(n) for n in written[1::2]] != list(range(len(turns) - 1)):
        raise UserError(f"task.messages: the tokenizer's chat template leaves out a message of {roles}")
    context = Markup(written[0])
    for n, literal in enumerate(written[2::2]):
        context = context + said[n] + Markup(literal)
    return context, str(whole).rpartition(_SAID.format(len(turns) - 1))[2]


def is_markup(text: str, start: int, end: int) -> bool:
    """Return whether what stands there was written for this model."""
    return any(first <= start and end <= last for first, last in places_of(text))


def join(texts: Sequence[str]) -> str:
    """Return the texts one after another, with their places."""
    joined = ""
    for text in texts:
        joined = joined + text
    return joined
