"""What the finished runs say of the paper's claims, as a page."""

from __future__ import annotations

from pathlib import Path

from gdo_cli.support.files import write_atomically
from study.evidence import Evidence
from study.html import page
from study.page import markdown


def write_report(results: Path, config_dir: Path | None) -> list[Path]:
    """Write README.md and report.html into the folder of results.

    Raises:
        UserError: a run that cannot be read.
    """
    results.mkdir(parents=True, exist_ok=True)  # better refused now than after all experiments are composed
    text = markdown(Evidence(results, config_dir))
    written = {results / "README.md": text, results / "report.html": page(text, results)}
    for file, content in written.items():
        write_atomically(file, content.encode())
    return list(written)
