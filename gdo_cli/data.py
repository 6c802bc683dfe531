"""Rows from a folder of JSON Lines, the hub, or the bundled sample; and what was wrong with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gdo_cli.errors import UserError, brief, suggest
from gdo_cli.hub import ANSWER_S, STALL_S, within
from gdo_cli.schema import DataConfig
from gdo_cli.tasks import Dataset, HubDataset, Row, RowError

SAMPLE_DIR = Path(__file__).parent / "sample"
_PART = re.compile(r"^(?P<split>\w+)(?:\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?$")
T = TypeVar("T")


@dataclass
class Split:
    """Rows of one split, with where each came from, and a record for the result.

    Attributes:
        where: per row, ``file:line`` or ``dataset[index]``.
        provenance: source, files or hub commit, and a checksum of the rows.
    """

    rows: list[Row]
    where: list[str]
    provenance: dict[str, Any]
    rejected: list[str] = field(default_factory=list)


def load_split(dataset: Dataset, role: str, config: DataConfig) -> Split:
    """The rows that play a role (``train``, ``validation``, ``test``, …) in a data set.

    Raises:
        UserError: no such folder, file, split or hub repository, with what there is instead.
    """
    spec = dataset.splits.get(role)
    if spec is None:
        raise UserError(f"dataset.splits has no {role!r}; {suggest(role, dataset.splits)}")
    if Path(dataset.name).name != dataset.name or dataset.name == "..":
        raise UserError(f"dataset.name={dataset.name}: the name of a folder; a path belongs in dataset.path")
    if dataset.path:
        return _from_path(Path(dataset.path).expanduser(), spec)
    if config.source == "hub":
        if config.offline:
            raise UserError("data=hub needs the network, data.offline=true forbids it: choose one")
        return _from_hub(dataset, dataset.hub.splits.get(role, spec))
    if config.source == "sample":
        return _from_folder(SAMPLE_DIR / dataset.name, dataset.sample.get(role, spec), "sample")
    return _from_folder(_local_root(config) / dataset.name, spec, "local")


def source_of(dataset: Dataset, config: DataConfig) -> str:
    """Return where a data set's rows come from: ``file`` for a user's own, else the configured source."""
    return "file" if dataset.path else config.source


def _from_path(path: Path, spec: str) -> Split:
    """A user's own folder, or a single file, whose rows are then the split ``all``."""
    if path.is_dir():
        return _from_folder(path, spec, "file")
    if not path.is_file():
        raise UserError(f"task.path={path}: no such file or folder")
    return _from_folder(path.parent, spec, "file", path)


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


# ------------------------------------------------------------------------------------ JSON Lines


def _from_folder(folder: Path, spec: str, source: str, only: Path | None = None) -> Split:
    if not folder.is_dir():
        there = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"no data set {folder.name!r} in {folder.parent}; {suggest(folder.name, there)}")
    rows: list[Row] = []
    where: list[str] = []
    rejected: list[str] = []
    digest = hashlib.sha256()
    for name, take in _parse_spec(spec):
        part_rows, part_where, part_rejected = (
            read_jsonl(only, digest) if only else _read(folder, name, digest)
        )
        rows += part_rows[take]
        where += part_where[take]
        rejected += _within(take, part_rejected, len(part_rows))
    if not rows and only and part_rows:
        raise UserError(
            f"{only}: split {spec!r} holds none of its {len(part_rows)} rows; choose others, e.g. "
            "'task.dataset.splits.train=\"all[:-20]\"' (and validation, and test)"
        )
    if not rows:
        unread = f"; {len(rejected)} lines cannot be read: {'; '.join(rejected[:3])}" if rejected else ""
        raise UserError(f"{only or folder}: split {spec!r} holds no rows{unread}")
    provenance = {"source": source, "split": spec, "sha256": digest.hexdigest(), "rows": len(rows)}
    return Split(rows, where, provenance, rejected)


def _parse_spec(spec: str) -> Iterator[tuple[str, slice]]:
    for part in spec.split("+"):
        match = _PART.match(part)
        if match is None:
            raise UserError(f"split {spec!r}: write it as train, train[:-500] or train+validation[500:]")
        start, stop = (None if v is None else int(v) for v in (match["start"], match["stop"]))
        yield match["split"], slice(start, stop)


def _within(take: slice, rejected: list[tuple[int, str]], rows: int) -> list[str]:
    """What is wrong with the lines between the rows of a slice, the file's last ones included."""
    start, stop, _ = take.indices(rows)
    return [told for before, told in rejected if start <= before < stop or before == stop == rows]


def _read(folder: Path, name: str, digest: Any) -> tuple[list[Row], list[str], list[tuple[int, str]]]:
    file = folder / f"{name}.jsonl"
    if not file.is_file():
        raise UserError(f"{file}: no such file; {suggest(name, [p.stem for p in folder.glob('*.jsonl')])}")
    return read_jsonl(file, digest)


def read_jsonl(file: Path, digest: Any = None) -> tuple[list[Row], list[str], list[tuple[int, str]]]:
    """Rows of a file, ``file:line`` of each, and the lines that are no JSON objects in UTF-8: how many rows
    stand before each, and what is wrong with it."""
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


# ------------------------------------------------------------------------------------------- hub


def _from_hub(dataset: Dataset, spec: str) -> Split:
    if not dataset.hub.path:
        raise UserError(f"data=hub: {dataset.name} is not on the hub; use data=local or data=sample")
    if dataset.hub.path.startswith("sacrebleu:"):
        return _from_sacrebleu(dataset, dataset.hub.path.partition(":")[2], spec)
    found = _from_cache(dataset.hub, spec)
    rows, commit = found if found is not None else _download(dataset, spec)
    hub = dataset.hub
    provenance = {"source": "hub", "path": hub.path, "name": hub.name, "commit": commit, "split": spec}
    return _with_checksum(rows, [f"{hub.path}[{i}]" for i in range(len(rows))], provenance)


def _from_cache(hub: HubDataset, spec: str) -> tuple[list[Row], str] | None:
    """The rows that an earlier download left, and their commit; asks nothing. None if they are not there."""
    from datasets import disable_progress_bars
    from datasets.packaged_modules.cache.cache import Cache
    from datasets.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()  # where the rows come from stands in the record
    try:
        builder = Cache(
            dataset_name=hub.path.rpartition("/")[2],
            repo_id=hub.path,
            config_name=hub.name,
            version="auto",
            hash="auto",
        )
        if hub.revision not in ("main", builder.hash):
            return None
        return [dict(row) for row in builder.as_dataset(split=spec)], builder.hash
    except (ValueError, KeyError, OSError):
        return None


def _download(dataset: Dataset, spec: str) -> tuple[list[Row], str | None]:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    hub = dataset.hub
    try:
        # The commit behind the branch is what is loaded and recorded.
        commit = within(
            ANSWER_S, lambda: HfApi().dataset_info(hub.path, revision=hub.revision, timeout=ANSWER_S).sha
        )
        loaded = within(STALL_S, lambda: load_dataset(hub.path, hub.name, split=spec, revision=commit))
    except Exception as error:
        raise UserError(_no_hub(dataset, hub.path, error)) from error
    return [dict(row) for row in loaded], commit


def _no_hub(dataset: Dataset, what: str, error: BaseException) -> str:
    """What to do where the hub gives no rows: nothing stands in for them unasked."""
    return (
        f"data=hub: cannot load {what} ({type(error).__name__}: {brief(error)}). Three ways out: data.dir="
        f"FOLDER (or GDO_DATA_DIR) with {dataset.name}/{'.jsonl, '.join(_files_of(dataset))}.jsonl in it; "
        f"data=sample, the bundled sample, for trying things out; or download {what} where there is a "
        "network"
    )


def _files_of(dataset: Dataset) -> list[str]:
    return list(dict.fromkeys(name for spec in dataset.splits.values() for name, _ in _parse_spec(spec)))


def _from_sacrebleu(dataset: Dataset, path: str, spec: str) -> Split:
    """MTNT as sacrebleu distributes it, checksums and all (rows: {"en", "fr"})."""
    from sacrebleu.utils import get_reference_files, get_source_file

    rows: list[Row] = []
    for name, take in _parse_spec(spec):
        test_set = f"{path}/{name}"
        try:
            source_file, (target_file,) = within(
                STALL_S,
                lambda name=test_set: (get_source_file(name, "en-fr"), get_reference_files(name, "en-fr")),  # type: ignore[misc]
            )
            source, target = _lines(source_file), _lines(target_file)
        except (Exception, SystemExit) as error:
            raise UserError(_no_hub(dataset, f"{test_set} through sacrebleu", error)) from error
        if len(source) != len(target):
            raise UserError(
                f"{test_set}: {len(source)} source and {len(target)} target lines; fetch it again"
            )
        rows += [{"en": en, "fr": fr} for en, fr in zip(source, target, strict=True)][take]
    where = [f"{path}[{i}]" for i in range(len(rows))]
    return _with_checksum(rows, where, {"source": "sacrebleu", "path": path, "split": spec})


def _lines(file: str) -> list[str]:
    """Lines by line feeds alone: MTNT's text holds other characters that Python splits at."""
    return Path(file).read_text("utf-8").rstrip("\n").split("\n")


def _with_checksum(rows: list[Row], where: list[str], provenance: dict[str, Any]) -> Split:
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Split(rows, where, provenance | {"sha256": digest, "rows": len(rows)})


# -------------------------------------------------------------------------------- rows to examples


def convert(split: Split, make: Callable[[Row], T], max_bad: float) -> list[T]:
    """Rows turned into examples; rows that cannot be are left out, counted and named.

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
    split.provenance["skipped_rows"] = len(bad)
    split.provenance["skipped"] = bad[:20]
    total = len(done) + len(bad)
    if not done or len(bad) > max_bad * total:
        raise UserError(
            f"{len(bad)} of {total} rows cannot be used, more than data.max_bad_rows={max_bad} allows; "
            "the first: " + "; ".join(bad[:3])
        )
    return done
