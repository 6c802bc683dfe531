"""``python -m study``: write README.md and report.html into the folder of results."""

from __future__ import annotations

from pathlib import Path

import typer

from gdo_cli.cli.arguments import ConfigDir, Results, messages
from study.report import write_report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(results: Results = Path("results"), config_dir: ConfigDir = None) -> None:
    """Write what the finished runs say of the paper's claims."""
    with messages():
        for file in write_report(results, config_dir):
            typer.echo(file)


if __name__ == "__main__":
    app()
