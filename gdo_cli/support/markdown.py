"""Tables in Markdown and learning rates, as the commands, the figures and the report write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], words: int | None = None) -> str:
    """Return a table, without a line break at its end.

    Args:
        words: columns of words, from the left; those behind are set to the right. All by default.
    """
    left = len(heading) if words is None else words
    marks = ["---" if column < left else "---:" for column in range(len(heading))]
    lines = (heading, marks, *rows)
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def rate(lr: float) -> str:
    """Return a learning rate as people write it: ``2e-5``, ``2e-4``, where Python has ``2e-05``,
    ``0.0002``."""
    mantissa, exponent = f"{lr:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
