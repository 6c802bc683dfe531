"""What a result needs beside its numbers, to be trusted and repeated."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from subprocess import DEVNULL, SubprocessError, check_output
from typing import Any

from gdo_cli.support.files import PACKAGE

PACKAGES = ("torch", "transformers", "peft", "datasets", "sacrebleu", "hydra-core", "gdo-cli")


def versions() -> dict[str, str]:
    """Return installed versions of what the numbers depend on."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = _version(package)
    return found


_version = cache(version)  # reading a package's metadata takes milliseconds, and every run asks three times


@cache
def code_sha256(*packages: str) -> str:
    """Return the checksum of the source of some of the package's rooms, or of all of it."""
    digest = hashlib.sha256()
    for file in sorted(file for part in packages or (".",) for file in (PACKAGE / part).rglob("*.py")):
        digest.update(str(file.relative_to(PACKAGE)).encode() + file.read_bytes())
    return digest.hexdigest()


def code_state() -> dict[str, Any]:
    """Return commit of the code and whether the checkout had changes; nothing for an installed wheel."""
    if commit := os.environ.get("GDO_CODE_COMMIT"):  # a copy of the code without its .git
        return {"commit": commit, "dirty": False}
    if not (PACKAGE.parent / ".git").exists():
        return {}
    git = partial(check_output, cwd=PACKAGE.parent, stderr=DEVNULL, text=True, timeout=10)
    try:
        commit = git(["git", "rev-parse", "HEAD"]).strip()
        # Results that a run itself writes are no change of the code.
        changed = git(["git", "status", "--porcelain", "--", "gdo_cli", "conf", "pyproject.toml"])
        return {"commit": commit, "dirty": bool(changed.strip())}
    except (OSError, SubprocessError):
        return {}
