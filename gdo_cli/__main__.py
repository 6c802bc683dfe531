"""``python -m gdo_cli``, the same as ``gdo``."""

from gdo_cli.cli.app import app

app(prog_name="gdo")
