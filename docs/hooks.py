"""Pages that are made at every build: commands from Typer, settings from the configuration."""

from __future__ import annotations

import dataclasses
import re
from inspect import getdoc
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from gdo_cli.cli.app import app
from gdo_cli.config.build import PARTS
from gdo_cli.config.options import GROUPS, about, options
from gdo_cli.config.run_config import Settings

FIGURES = ("fig2_adafactor",)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and the figures that pages show."""
    for name, text in (("commands", commands()), ("settings", settings())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    figures = Path(config.config_file_path).parent / "results" / "figures"
    for figure in FIGURES:
        content = (figures / f"{figure}.png").read_bytes()
        files.append(File.generated(config, f"assets/{figure}.png", content=content))
    return files


def commands() -> str:
    """Every command with its help, arguments and options."""
    parts = ["# Commands", ""]
    for path, command in _commands(typer.main.get_command(app), "gdo"):
        parts += [f"## {path}", "", _plain(command.help or ""), ""]
        rows = [_parameter(p) for p in command.params if p.name not in ("help", None)]
        if rows:
            parts += ["| | |", "| --- | --- |", *rows, ""]
    return "\n".join(parts)


def _commands(command: Any, path: str) -> list[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [c for name, child in command.commands.items() for c in _commands(child, f"{path} {name}")]


def _parameter(parameter: Any) -> str:
    names = parameter.opts if parameter.opts[0].startswith("-") else [parameter.name.upper()]
    shown = ", ".join(f"`{name}`" for name in names)
    return f"| {shown} | {_plain(parameter.help or '').replace('|', '/')} |"


def _plain(text: str) -> str:
    return re.sub(r"\[/?b\]", "`", text)


def settings() -> str:
    """Every option of every group with what it is, and every setting with its meaning."""
    parts = ["# Settings", "", "Settings are written `key=value`. `gdo config` prints a whole run.", ""]
    parts += ["## Of a run", "", *_fields(Settings, ""), ""]
    for key in ("train", "evaluation", "keep", "stop", "data"):
        parts += [f"## {key}", "", *_fields(PARTS[key], f"{key}."), ""]
    parts += ["# Options", ""]
    for group in GROUPS:
        parts += [f"## {group}", "", "| | |", "| --- | --- |"]
        for option in options(group):
            what = about(group, option).replace("|", "/")
            parts.append(f"| `{group}={option}` | {what} |")
        parts.append("")
    return "\n".join(parts)


def _fields(kind: type, prefix: str) -> list[str]:
    meanings = _attributes(getdoc(kind) or "")
    rows = ["| | default | |", "| --- | --- | --- |"]
    for field in dataclasses.fields(kind):
        default = "" if field.default is dataclasses.MISSING else str(field.default)
        rows.append(f"| `{prefix}{field.name}` | {default} | {meanings.get(field.name, '')} |")
    return rows


def _attributes(doc: str) -> dict[str, str]:
    """The meanings under ``Attributes:`` of a docstring, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in doc.partition("Attributes:\n")[2].splitlines():
        if match := re.match(r"    (\w[\w, ]*): (.*)", line):
            name = match[1]
            found |= dict.fromkeys(name.split(", "), match[2])
        elif line.startswith("        ") and name:
            found |= {part: f"{found[part]} {line.strip()}" for part in name.split(", ")}
    return {key: text.replace("``", "`").replace("|", "/") for key, text in found.items()}
