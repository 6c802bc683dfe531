"""Files that are written whole or not at all, their checksums, and where the cache is."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Any

from gdo_cli.support.errors import UserError

INFINITIES = ("Infinity", "-Infinity")  # as JavaScript and protobuf name them
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


def json_text(value: Any, indent: int | None = None) -> str:
    """Return strict JSON, with null for NaN and strings for infinities; :func:`number` reads them."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_with_words(value), indent=indent, ensure_ascii=False)


def _with_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_words(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_words(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else INFINITIES[value < 0]
    return value


def number(value: Any) -> Any:
    """Return the number that :func:`json_text` wrote, where it is known to have been one."""
    return math.nan if value is None else float(value) if value in INFINITIES else value


def write_for_user(path: Path | None, text: str) -> None:
    """Write a file that was asked for, and its folder; nothing for None.

    A link, a pipe, or a device such as /dev/stdout is written to and stays what it is.

    Raises:
        UserError: it cannot be written.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (not path.is_file() or path.parts[1:2] in (("dev",), ("proc",))):
            path.write_bytes(text.encode())
        else:
            write_atomically(Path(os.path.realpath(path)), text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def cache_dir() -> Path:
    """Return where converted weights are kept: ``GDO_CACHE_DIR``, else ``gdo`` in ``XDG_CACHE_HOME`` or
    ``~/.cache``; among temporary files for a user who has no home."""
    if own := os.environ.get("GDO_CACHE_DIR"):
        return Path(os.path.expanduser(own))  # noqa: PTH111 - unlike Path's, it raises nothing without a home
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    if caches.startswith("~"):
        return Path(gettempdir()) / f"gdo-{os.getuid()}"
    return Path(caches) / "gdo"


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
