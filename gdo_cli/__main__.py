"""``python -m gdo_cli``, the same as ``gdo``."""

from gdo_cli.cli import app

app(prog_name="gdo")
