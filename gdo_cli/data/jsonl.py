"""JSON Lines, strictly: what is no JSON object in UTF-8 is rejected and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gdo_cli.data.dataset import Row


def read_jsonl(file: Path, digest: Any = None) -> tuple[list[Row], list[str], list[tuple[int, str]]]:
    """Return a file's rows, ``file:line`` of each, and for every other line the rows before it and its fault.

    Args:
        digest: a hash that is fed the file's bytes.
    """
    rows: list[Row] = []
    where: list[str] = []
    rejected: list[tuple[int, str]] = []
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if digest is not None:
                digest.update(line)
            if not line.strip():
                continue
            place = f"{file.parent.name}/{file.name}:{number}"
            try:
                rows.append(_object(line))
                where.append(place)
            except (ValueError, RecursionError) as error:
                rejected.append((len(rows), f"{place}: {error}"))
    return rows, where, rejected


def _object(line: bytes) -> Row:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
        if b"\\u" in line:  # half of a surrogate pair is JSON, but no text
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair") from error
    except UnicodeError as error:
        raise ValueError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
