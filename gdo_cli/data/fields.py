"""Fields of a row, checked: what tasks and probes read is there and of its kind, or the row is refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from gdo_cli.data.dataset import Row, RowError

_UNSEEN = {"Cc", "Cf", "Cn", "Zl", "Zp", "Zs"}  # control, format, none assigned, separators


def text(row: Row, key: str) -> str:
    """Return a field that must be a string with something in it, stripped."""
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"field {key!r} is {'missing' if value is None else 'no text'}")
    if is_blank(value):
        raise RowError(f"field {key!r} is empty")
    return value.strip()


def is_blank(value: str) -> bool:
    """Return whether nothing of a text can be seen: spaces, and signs without width such as U+200B."""
    return all(unicodedata.category(c) in _UNSEEN or c.isspace() for c in value)


def label(row: Row, key: str, allowed: tuple[str, ...]) -> str:
    """Return a field that must be one of the given labels."""
    value = text(row, key)
    if value not in allowed:
        raise RowError(f"field {key!r} is {value!r}, not one of {', '.join(allowed)}")
    return value


def options(row: Row, key: str = "choices") -> dict[str, str]:
    """Answer options in the layout of ARC and QASC: label → text."""
    choices = row.get(key)
    if not isinstance(choices, Mapping):
        raise RowError(f"field {key!r} is missing or no object")
    labels, texts = choices.get("label"), choices.get("text")
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise RowError(f"field {key!r} needs lists 'label' and 'text' of the same length")
    if not labels or not all(isinstance(item, str) and item.strip() for item in [*labels, *texts]):
        raise RowError(f"field {key!r} holds an empty option")
    if len({name.strip() for name in labels}) != len(labels):
        raise RowError(f"field {key!r} names an option twice")
    return {name.strip(): value.strip() for name, value in zip(labels, texts, strict=True)}
