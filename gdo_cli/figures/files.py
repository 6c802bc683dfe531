"""The files of a figure."""

from __future__ import annotations

from pathlib import Path

from gdo_cli.figures.style import Drawing
from gdo_cli.support.markdown import csv_text, table


def save(drawing: Drawing, stem: Path) -> list[Path]:
    """Write PNG, PDF, CSV and a table if there is one; the same runs always give the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf, points = (stem.with_suffix(suffix) for suffix in (".png", ".pdf", ".csv"))
    drawing.figure.savefig(png, metadata={"Software": None})
    drawing.figure.set_layout_engine("none")  # it is laid out; doing so again takes as long as drawing
    drawing.figure.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    points.write_text(csv_text(drawing.points), "utf-8")
    if drawing.table:
        heading, *rows = drawing.table
        stem.with_suffix(".md").write_text(table(heading, rows, words=1) + "\n", "utf-8")
    return [png, pdf, points]
