"""Rows from a folder of files, the hub, or the bundled sample; and what was wrong with them."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gdo_cli.data.config import DataConfig
from gdo_cli.data.dataset import Dataset, Row, RowError, Split, parse_spec
from gdo_cli.data.hub import load_from_hub
from gdo_cli.data.overlap import three_splits
from gdo_cli.data.tabular import SUFFIXES, Rows, read_tabular
from gdo_cli.support.console import warn
from gdo_cli.support.errors import UserError, suggest
from gdo_cli.support.files import PACKAGE

SAMPLE_DIR = PACKAGE / "data" / "sample"
T = TypeVar("T")


def load_split(dataset: Dataset, role: str, config: DataConfig) -> Split:
    """Return the rows that play a role (``train``, ``validation``, ``test``, …) in a data set.

    Raises:
        UserError: no such folder, file, split or hub repository, with what there is instead.
    """
    spec = dataset.splits.get(role)
    if spec is None:
        raise UserError(f"dataset.splits has no {role!r}; {suggest(role, dataset.splits)}")
    if Path(dataset.name).name != dataset.name or dataset.name == "..":
        raise UserError(f"dataset.name={dataset.name}: the name of a folder; a path belongs in dataset.path")
    if dataset.path:
        path = Path(dataset.path).expanduser()
        if not path.exists():
            key = "task.path" if role in ("train", "validation", "test") else f"probe.{dataset.name}.path"
            raise UserError(f"{key}={path}: no such file or folder")
        if path.is_dir():
            return _from_folder(path, spec, "file")
        return _from_folder(path.parent, spec, "file", path)
    if config.source == "hub":
        if config.offline:
            raise UserError("data=hub needs the network, data.offline=true forbids it: choose one")
        return load_from_hub(dataset, dataset.hub.splits.get(role, spec))
    if config.source == "sample":
        return _from_folder(SAMPLE_DIR / dataset.name, dataset.sample.get(role, spec), "sample")
    return _from_folder(_local_root(config) / dataset.name, spec, "local")


def source_of(dataset: Dataset, config: DataConfig) -> str:
    """Return where a data set's rows come from: ``file`` for a user's own, else the configured source."""
    return "file" if dataset.path else config.source


def require_source(config: DataConfig) -> None:
    """Raise a UserError unless there is a folder where the data are to be in one."""
    if config.source == "local":
        _local_root(config)


def _local_root(config: DataConfig) -> Path:
    if not config.dir:
        raise UserError("data=local: set GDO_DATA_DIR, or data.dir=FOLDER, to the folder of data sets")
    root = Path(config.dir).expanduser()
    if not root.is_dir():
        raise UserError(f"data.dir={config.dir}: no such folder")
    return root


def _from_folder(folder: Path, spec: str, source: str, only: Path | None = None) -> Split:
    """The rows of a folder of JSON Lines, or of one file there alone, which are then the split ``all``."""
    if not folder.is_dir():
        there = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"no data set {folder.name!r} in {folder.parent}; {suggest(folder.name, there)}")
    rows: list[Row] = []
    where: list[str] = []
    rejected: list[str] = []
    files: list[str] = []
    digest = hashlib.sha256()
    for name, take in parse_spec(spec):
        if only and name not in ("all", only.stem):
            raise UserError(
                f"{only}: split {spec!r}: one file has no {name!r}; its rows are 'all', e.g. "
                + three_splits("all", len(read_rows(only)[0]))
            )
        file = only or _file(folder, name)
        if not file.is_file():
            there = [path.stem for path in folder.iterdir() if path.suffix in (".jsonl", *SUFFIXES)]
            raise UserError(f"{file}: no such file; {suggest(name, there)}")
        part_rows, part_where, part_rejected = read_rows(file, digest)
        rows += part_rows[take]
        where += part_where[take]
        files += [str(file.resolve())] * len(part_rows[take])
        rejected += _within(take, part_rejected, len(part_rows))
    if not rows and only and part_rows:
        raise UserError(
            f"{only}: split {spec!r} holds none of its {len(part_rows)} rows; choose others, e.g. "
            + three_splits("all", len(part_rows))
        )
    if not rows:
        unread = f"; {len(rejected)} lines cannot be read: {'; '.join(rejected[:3])}" if rejected else ""
        raise UserError(f"{only or folder}: split {spec!r} holds no rows{unread}")
    provenance = {"source": source, "split": spec, "sha256": digest.hexdigest(), "rows": len(rows)}
    return Split(rows, where, provenance, rejected, files)


def _file(folder: Path, name: str) -> Path:
    """The file of a split, in whichever form it is there."""
    files = [folder / f"{name}{suffix}" for suffix in (".jsonl", *SUFFIXES)]
    return next((file for file in files if file.is_file()), files[0])


def read_rows(file: Path, digest: Any = None) -> Rows:
    """Return a file's rows: CSV, TSV or Parquet by its name, JSON Lines by any other."""
    return (read_tabular if file.suffix.lower() in SUFFIXES else read_jsonl)(file, digest)


def _within(take: slice, rejected: list[tuple[int, str]], rows: int) -> list[str]:
    """What is wrong with the lines between the rows of a slice, the file's last ones included."""
    start, stop, _ = take.indices(rows)
    return [told for before, told in rejected if start <= before < stop or before == stop == rows]


def read_jsonl(file: Path, digest: Any = None) -> Rows:
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
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)  # Windows writes one
            if not line.strip():
                continue
            place = f"{Path(*file.parts[-2:])}:{number}"
            try:
                rows.append(_object(line))
                where.append(place)
            except (ValueError, RecursionError) as error:
                rejected.append((len(rows), f"{place}: {error}"))
    return rows, where, rejected


class Written(float):
    """A number that is written as it stood: 1.50 is a price, and 1e3 no 1000.0."""

    written: str

    def __new__(cls, text: str) -> Written:
        made = super().__new__(cls, text)
        if not math.isfinite(made):
            raise ValueError(f"{text} is too large a number")
        made.written = text
        return made

    def __str__(self) -> str:
        return self.written


def _object(line: bytes) -> Row:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(
            line.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse, parse_float=Written
        )
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


def convert(split: Split, make: Callable[[Row], T], max_bad: float) -> list[T]:
    """Turn rows into examples; those that cannot be are left out, counted and named.

    Raises:
        UserError: more than the given share of the rows is unusable.
    """
    done: list[T] = []
    bad = list(split.rejected)
    for row, where in zip(split.rows, split.where, strict=True):
        try:
            done.append(make(row))
        except RowError as error:
            bad.append(f"{where}: {error}")
    split.provenance |= {"skipped_rows": len(bad), "skipped": bad[:20]}
    total = len(done) + len(bad)
    if not done or len(bad) > max_bad * total:
        raise UserError(
            f"{len(bad)} of {total} rows cannot be used, more than data.max_bad_rows={max_bad} allows; "
            "the first: " + "; ".join(bad[:3])
        )
    if bad:
        warn(f"{len(bad)} of {total} rows cannot be used and are left out; the first: {bad[0]}")
    return done
