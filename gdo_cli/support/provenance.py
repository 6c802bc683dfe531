"""What a result needs beside its numbers, to be trusted and repeated."""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gdo_cli.support.files import PACKAGE

PACKAGES = ("torch", "transformers", "peft", "datasets", "sacrebleu", "hydra-core", "gdo-cli")


def versions() -> dict[str, str]:
    """Return installed versions of what the numbers depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = _version(package)
        except PackageNotFoundError:
            continue
    return found


_version = cache(version)  # reading a package's metadata takes milliseconds, and every run asks three times


@cache
def code_sha256(*packages: str) -> str:
    """Return the checksum of the source of some of the package's rooms, or of all of it."""
    root = PACKAGE
    files = sorted(file for part in packages or (".",) for file in (root / part).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()


def code_state() -> dict[str, Any]:
    """Return commit of the code and whether the checkout had changes; nothing for an installed wheel."""
    if commit := os.environ.get("GDO_CODE_COMMIT"):  # a copy of the code without its .git
        return {"commit": commit, "dirty": False}
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # Results that a run itself writes are no change of the code.
        changed = _git(root, "status", "--porcelain", "--", "gdo_cli", "conf", "pyproject.toml")
        return {"commit": commit, "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
