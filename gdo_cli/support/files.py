"""Files that are written whole or not at all, their checksums, and where the cache is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import IO

from gdo_cli.support.errors import UserError

PACKAGE = Path(str(files("gdo_cli")))  # where the package lies, whichever of its modules asks


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write the whole file or nothing: beside it, synced, renamed.

    Args:
        content: or what writes it.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as stream:
            stream.write(content) if isinstance(content, bytes) else content(stream)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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
    """Return the checksum of all of them together.

    Raises:
        UserError: a file is not what the hub's cache, which names large files by their checksum, says it is.
    """
    digest = hashlib.sha256()
    for file in files:
        own, blob = hashlib.sha256(), file.readlink() if file.is_symlink() else file
        announced = blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name)
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
                if announced:
                    own.update(block)
        if announced and own.hexdigest() != blob.name:
            raise UserError(
                f"{file}: not what the hub announced, or damaged since (checksum {own.hexdigest()[:12]}… "
                f"instead of {blob.name[:12]}…): remove {file.resolve()} to have it fetched again"
            )
    return digest.hexdigest()
