"""What the generators share: row types, text tables and choices."""

import random

Row = dict[str, object]
Splits = dict[str, list[Row]]


def table(text: str) -> list[list[str]]:
    """The cells of a text table: a row a line, cells parted by `|`."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def cut(rows: list[Row], sizes: dict[str, int]) -> Splits:
    """Consecutive splits of `rows`, in the order of `sizes`."""
    splits: Splits = {}
    start = 0
    for name, size in sizes.items():
        splits[name] = rows[start : start + size]
        start += size
    if start > len(rows):
        raise ValueError(f"{len(rows)} rows for {start} places")
    return splits


def capital(text: str) -> str:
    """`text` with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def multiple_choice(
    rng: random.Random, answer: str, pool: list[str], label: str, number: int
) -> tuple[dict[str, list[str]], str]:
    """`choices` and `answerKey` of question `number`: the answer among others of `pool`.

    The answer takes each place in turn, so that every letter is right equally often.
    """
    place = number % len(label)
    text = rng.sample(sorted(set(pool) - {answer}), len(label) - 1)
    text.insert(place, answer)
    return {"text": text, "label": list(label)}, label[place]
