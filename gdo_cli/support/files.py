"""Files that are written whole or not at all, their checksums, and where the cache is."""

from __future__ import annotations

import hashlib
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from gdo_cli.support.errors import UserError

if TYPE_CHECKING:
    pass

PACKAGE = Path(str(files("gdo_cli")))  # where the package lies, whichever of its modules asks


def announced_sha256(file: Path) -> str | None:
    """Return the checksum by which the hub's cache names a large file's content; None for any other file."""
    content = file.readlink() if file.is_symlink() else file
    known = content.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", content.name)
    return content.name if known else None


def write_atomically(path: Path, content: bytes) -> None:
    """The whole file or nothing: written beside it, synced, renamed."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def write_for_user(path: Path | None, text: str) -> None:
    """Write a file that was asked for, and its folder; nothing for None.

    Raises:
        UserError: it cannot be written.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def cache_dir() -> Path:
    """Return where converted weights are kept: ``GDO_CACHE_DIR``, else ``~/.cache/gdo``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gdo"
    return Path(os.environ.get("GDO_CACHE_DIR", default))


def files_sha256(files: list[Path]) -> str:
    """Return the checksum of all of them together; each is compared with what the hub's cache knows of it."""
    digest = hashlib.sha256()
    for file in files:
        own, announced = hashlib.sha256(), announced_sha256(file)
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
                if announced:
                    own.update(block)
        if announced and own.hexdigest() != announced:
            raise UserError(
                f"{file}: not what the hub announced, or damaged since (checksum {own.hexdigest()[:12]}… "
                f"instead of {announced[:12]}…): remove {file.resolve()} to have it fetched again"
            )
    return digest.hexdigest()
