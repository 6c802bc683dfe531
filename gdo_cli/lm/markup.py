"""Text that was written for a model: where names of control tokens stand for these, and chats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gdo_cli.support.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = tuple[str, str]  # role, what was said
Turns = tuple[Turn, ...]
# Stands for what was said while a template is rendered, so that what the template itself writes is known.
_SAID = "\ue000{}\ue001"
# What a template that asks for today's date is told, so that a run is the same tomorrow: the date that
# Llama's templates name where they are not told one.
TODAY = datetime(2024, 7, 26)
_TODAYS = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_PLACE = re.compile(_SAID.format(r"(\d+)"))


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


def render_chat(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> tuple[Markup, str, str]:
    """Return a chat up to its answer, the answer, and what follows, as the tokenizer's template writes them.

    What was said is words, whatever it names. What the template puts between its prompt for an answer and
    the answer, such as a channel or an empty thought, is given; but spaces at its end are the answer's.

    Raises:
        UserError: the template refuses the roles or their order, leaves a message out, or changes one.
    """
    said = [content.strip() for _, content in turns]
    prompt, whole = _render(tokenizer, turns, [_SAID.format(n) for n in range(len(turns))])
    roles = ", ".join(role for role, _ in turns)
    if _said_in(whole) != list(range(len(turns))) or _said_in(prompt) != list(range(len(turns) - 1)):
        raise UserError(
            f"task.messages: the tokenizer's chat template leaves out a message of {roles}, or repeats one"
        )
    # A template may look into what is said: strip earlier thoughts, cut what is long, escape quotes.
    if _render(tokenizer, turns, said) != (_filled(prompt, said), _filled(whole, said)):
        raise UserError(
            f"task.messages: the tokenizer's chat template changes what is said in a chat of {roles}: "
            f"{said[-1][:60]!r}; put messages into the rows as it leaves them (without earlier thoughts, say)"
        )
    before, _, after = whole.rpartition(_SAID.format(len(turns) - 1))
    between = before.removeprefix(prompt) if before.startswith(prompt) else ""
    given = between.rstrip(" ")
    context = Markup()
    for n, literal in enumerate(_PLACE.split(prompt + given)[::2]):
        context = context + (said[n - 1] if n else "") + Markup(literal)
    return context, between[len(given) :] + said[-1], after


def _render(tokenizer: PreTrainedTokenizerBase, turns: Turns, said: Sequence[str]) -> tuple[str, str]:
    """The prompt for the last message, and the whole chat, with these words in the place of what was said."""
    messages = [{"role": role, "content": words} for (role, _), words in zip(turns, said, strict=True)]
    template = _TODAYS.sub(lambda call: repr(TODAY.strftime(call[2])), tokenizer.get_chat_template())
    if "strftime_now(" in template:
        raise UserError(
            "task.messages: the tokenizer's chat template asks for today's date in a form that gdo cannot "
            "hold still; write the form into the call, strftime_now('%d %B %Y'), or leave the date out"
        )
    try:
        fixed: dict[str, Any] = {"tokenize": False, "chat_template": template}
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, **fixed)
        return str(prompt), str(tokenizer.apply_chat_template(messages, **fixed))
    except Exception as error:  # a template raises what it likes
        roles = ", ".join(role for role, _ in turns)
        raise UserError(
            f"task.messages: the tokenizer's chat template refuses a chat of {roles}: {first_line(error)}"
        ) from error


def _said_in(rendered: str) -> list[int]:
    return [int(n) for n in _PLACE.findall(rendered)]


def _filled(rendered: str, said: Sequence[str]) -> str:
    return _PLACE.sub(lambda place: said[int(place[1])], rendered)


def is_markup(text: str, start: int, end: int) -> bool:
    """Return whether what stands there was written for this model."""
    return any(first <= start and end <= last for first, last in places_of(text))


def join(texts: Sequence[str]) -> str:
    """Return the texts one after another, with their places."""
    joined = ""
    for text in texts:
        joined = joined + text
    return joined
