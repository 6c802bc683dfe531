"""Rows that are learnt must not be those that are measured: the same lines of a file, and equal prompts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from gdo_cli.data.dataset import Split, parse_spec
from gdo_cli.support.errors import UserError


def require_apart(first: Mapping[str, Split], second: Mapping[str, Split]) -> None:
    """Raise a UserError if a row of the first splits is one of the second: the same line of the same file.

    Args:
        first, second: by the overrides that choose them, e.g. ``task.dataset.splits.train``.
    """
    for (key, split), (other, measured) in product(first.items(), second.items()):
        places = set(split.places)
        shared = [n for n, place in enumerate(measured.places) if place in places]
        if shared:
            raise UserError(
                f"{other}: {len(shared)} of its {len(measured.rows)} rows are rows of {key}, too (the first: "
                f"{measured.where[shared[0]]}); give each row to one of them{_apart(key, split, measured)}"
            )


def require_once(splits: Mapping[str, Split]) -> None:
    """Raise a UserError if a split that is measured holds a row twice: more items than there are would be
    counted, and errors would look smaller than they are."""
    for key, split in splits.items():
        if (twice := len(split.places) - len(set(split.places))) > 0:
            raise UserError(
                f"{key}={split.provenance['split']}: {twice} of its {len(split.rows)} rows are there a "
                "second time; name every row once"
            )


def _apart(key: str, *splits: Split) -> str:
    """How a task's splits that are all of one file would be apart."""
    if not key.startswith("task.") or not all(split.files for split in splits):
        return ""
    names = {name for split in splits for name, _ in parse_spec(split.provenance["split"])}
    places = {place for split in splits for place in split.places}
    return ", e.g. " + three_splits(names.pop(), len(places)) if len(names) == 1 else ""


def three_splits(name: str, rows: int) -> str:
    """Return the override that divides a file into train, validation and test rows, a tenth each for the
    latter."""
    if rows < 3:
        return "a file of three rows or more"
    n = max(1, rows // 10)
    slices = f'train: "{name}[:-{2 * n}]", validation: "{name}[-{2 * n}:-{n}]", test: "{name}[-{n}:]"'
    return f"'task.dataset.splits={{{slices}}}'"


def repeated(prompts: Sequence[str], among: Iterable[str]) -> list[str]:
    """Return the prompts that are among others, all but for case, white space and how accents
    are encoded."""
    known = set(map(_alike, among))
    return [prompt for prompt in prompts if _alike(prompt) in known]


def _alike(prompt: str) -> str:
    return " ".join(unicodedata.normalize("NFC", prompt).casefold().split())
