"""The groups of the configuration and their options, bundled and the user's own."""

from __future__ import annotations

import re
from itertools import dropwhile, takewhile
from pathlib import Path

import yaml

from gdo_cli.support.files import PACKAGE

GROUPS = ("model", "task", "method", "data", "train", "probe", "keep", "experiment", "tune")
# Hydra's own groups that plugins add to, and the extra of this package that brings each of them.
PLUGGED = {
    "hydra/launcher": {
        "joblib": "joblib",
        "submitit_local": "submitit",
        "submitit_slurm": "submitit",
        "ray": "ray",
    },
    "hydra/sweeper": {"optuna": "optuna"},
}
# Keys of the composition that are no part of a run.
NOT_OF_A_RUN = ("probe", "tune", "sweep", "suite", "suites", "length", "figure", "name")


def conf_dir() -> Path:
    """Return the bundled configuration: inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def options(group: str, config_dir: Path | None = None) -> list[str]:
    """Return the options of a config group, the user's own directory included."""
    return sorted(_files(group, config_dir))


def about(group: str, option: str, config_dir: Path | None = None) -> str:
    """Return what an option is: the first comment of its file, to the end of its sentence."""
    lines = _files(group, config_dir)[option].read_text("utf-8", errors="replace").splitlines()
    comments = (line for line in lines if "@package" not in line)
    block = takewhile(lambda line: line.startswith("#"), dropwhile(lambda line: line[:1] != "#", comments))
    first, *rest = [line.lstrip("# ") for line in block] or [""]
    if first.endswith((".", "?", "!", ":")):
        return first
    end = re.match(r".*?[.?!](?=\s|$)", continued := " ".join(rest))
    return f"{first} {end[0] if end else continued}".strip()


def options_with(group: str, key: str, config_dir: Path | None = None) -> list[str]:
    """Return the options of a group whose own file sets a key."""
    content = {
        name: yaml.safe_load(file.read_text("utf-8")) for name, file in _files(group, config_dir).items()
    }
    return sorted(name for name, keys in content.items() if key in (keys or {}))


def _files(group: str, config_dir: Path | None) -> dict[str, Path]:
    """Options and their files, the user's own in the place of bundled namesakes."""
    roots = [conf_dir(), *([config_dir] if config_dir else [])]
    return {file.stem: file for root in roots for file in (root / group).glob("*.yaml") if file.is_file()}


def literal(text: str) -> str:
    """Return text in which ``${`` stands for these signs, and for no other setting."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def quoted(text: str) -> str:
    """Return text as Hydra's overrides quote it: backslashes count double before a quote and at the end
    alone."""
    text = literal(text)
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + m[2].replace("'", "\\'"), text) + "'"
