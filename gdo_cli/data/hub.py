"""Rows of the hub, or what an earlier download left of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdo_cli.data.dataset import Dataset, HubDataset, Row, Split, parse_spec
from gdo_cli.support.errors import UserError, first_line

Loaded = tuple[list[Row], str | None, dict[str, int]]  # rows, their commit, rows of each whole split
_REVERSE = "_reverse"  # behind the name of a split of sacrebleu's, from French to English


def load_from_hub(dataset: Dataset, spec: str) -> Split:
    if not dataset.hub.path:
        raise UserError(f"data=hub: {dataset.name} is not on the hub; use data=local or data=sample")
    if dataset.hub.path.startswith("sacrebleu:"):
        return _from_sacrebleu(dataset, dataset.hub.path.partition(":")[2], spec)
    found = _from_cache(dataset.hub, spec)
    rows, commit, lengths = found if found is not None else _download(dataset, spec)
    hub = dataset.hub
    provenance = {"source": "hub", "path": hub.path, "name": hub.name, "commit": commit, "split": spec}
    return _with_checksum(rows, _places(hub.path, spec, lengths, len(rows)), provenance)


def _places(path: str, spec: str, lengths: Mapping[str, int], rows: int) -> list[str]:
    """Where each row of a split lies in the whole of it, so that splits can be told apart."""
    from datasets import ReadInstruction

    if not lengths:
        return [f"{path}/{spec}[{i}]" for i in range(rows)]
    parts = ReadInstruction.from_spec(spec).to_absolute(lengths)
    taken = [(p.splitname, range(lengths[p.splitname])[p.from_ : p.to]) for p in parts]
    return [f"{path}/{name}[{i}]" for name, indices in taken for i in indices]


def _lengths(splits: Any) -> dict[str, int]:
    return {str(name): int(split.num_examples) for name, split in (splits or {}).items()}


def _from_cache(hub: HubDataset, spec: str) -> Loaded | None:
    """What an earlier download left; asks nothing. None if it is not there."""
    from datasets import disable_progress_bars

    try:
        from datasets.packaged_modules.cache.cache import Cache
    except ImportError:  # no documented part of the library; without it the hub is asked every time
        return None
    from datasets.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()  # where the rows come from stands in the record
    try:
        name, newest = hub.path.rpartition("/")[2], {"version": "auto", "hash": "auto"}
        builder = Cache(dataset_name=name, repo_id=hub.path, config_name=hub.name, **newest)
        if hub.revision not in ("main", builder.hash):
            return None
        rows: list[Row] = [dict(row) for row in builder.as_dataset(split=spec)]
        return rows, builder.hash, _lengths(builder.info.splits)
    except (ValueError, KeyError, OSError):
        return None


def _download(dataset: Dataset, spec: str) -> Loaded:
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    hub = dataset.hub
    try:
        # The commit behind the branch is what is loaded and recorded.
        limit = constants.HF_HUB_ETAG_TIMEOUT
        commit = HfApi().dataset_info(hub.path, revision=hub.revision, timeout=limit).sha
        loaded = load_dataset(hub.path, hub.name, split=spec, revision=commit)
    except Exception as error:
        raise UserError(_no_hub(dataset, hub.path, error)) from error
    return [dict(row) for row in loaded], commit, _lengths(loaded.info.splits)


def _no_hub(dataset: Dataset, what: str, error: BaseException) -> str:
    """What to do where the hub gives no rows: nothing stands in for them unasked."""
    names = dict.fromkeys(name for spec in dataset.splits.values() for name, _ in parse_spec(spec))
    files = ", ".join(f"{name}.jsonl" for name in names)
    return (
        f"data=hub: cannot load {what} ({type(error).__name__}: {first_line(error)}). Three ways out: "
        f"data.dir=FOLDER (or GDO_DATA_DIR) with {dataset.name}/{files} in it; "
        f"data=sample, the bundled sample, for trying things out; or download {what} where there is a "
        "network"
    )


def _from_sacrebleu(dataset: Dataset, path: str, spec: str) -> Split:
    """MTNT as sacrebleu distributes it, checksums and all (rows: {"en", "fr"}).

    ``valid_reverse`` is the split ``valid`` of the other direction, turned round.
    """
    from sacrebleu.utils import get_reference_files, get_source_file

    rows: list[Row] = []
    where: list[str] = []
    for name, take in parse_spec(spec):
        test_set = f"{path}/{name.removesuffix(_REVERSE)}"
        languages = ("fr", "en") if name.endswith(_REVERSE) else ("en", "fr")
        try:
            source_file = get_source_file(test_set, "-".join(languages))
            (target_file,) = get_reference_files(test_set, "-".join(languages))
            source, target = _lines(source_file), _lines(target_file)
        except (Exception, SystemExit) as error:
            raise UserError(_no_hub(dataset, f"{test_set} through sacrebleu", error)) from error
        if len(source) != len(target):
            raise UserError(
                f"{test_set}: {len(source)} source and {len(target)} target lines; fetch it again"
            )
        rows += [dict(zip(languages, texts, strict=True)) for texts in zip(source, target, strict=True)][take]
        where += [f"{path}/{name}[{i}]" for i in range(len(source))][take]
    return _with_checksum(rows, where, {"source": "sacrebleu", "path": path, "split": spec})


def _lines(file: str) -> list[str]:
    """Lines by line feeds alone: MTNT's text holds other characters that Python splits at."""
    return Path(file).read_text("utf-8").rstrip("\n").split("\n")


def _with_checksum(rows: list[Row], where: list[str], provenance: dict[str, Any]) -> Split:
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Split(rows, where, provenance | {"sha256": digest, "rows": len(rows)})
