"""What is measured of the base model, computed once for all runs that start from the same model and
measure the same things."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gdo_cli.evaluation.evaluator import Evaluation, Evaluator
from gdo_cli.lm.device import describe_machine
from gdo_cli.runs.record import read_item
from gdo_cli.support.files import cache_dir, json_text, number, write_atomically
from gdo_cli.support.provenance import code_sha256, versions

Arrays = dict[str, NDArray[Any]]
MEASURING = ("data", "lm", "probes", "stats", "tasks", "evaluation")  # whose code decides


def base_evaluation(
    evaluator: Evaluator, facts: dict[str, Any], evaluate: Callable[[], Evaluation]
) -> Evaluation:
    """Return the evaluation of the untouched model, from the cache or computed and put there.

    The key is the content: every token asked and scored, the weights' checksum and precision
    (``facts``), and the code that measures. A file that cannot be read is computed again.
    """
    key = {"suite": evaluator.fingerprint(), "code": code_sha256(*MEASURING), **facts}
    file = _file("evaluations", key, "json")
    try:
        checksum, content = file.read_bytes().split(b"\n", 1)
        if checksum != b"%08x" % zlib.crc32(content):
            raise ValueError("a bit has changed")
        found = Evaluation(**json.loads(content))
        metrics = {key: number(value) for key, value in found.metrics.items()}
        return Evaluation(metrics, [read_item(row) for row in found.predictions])
    except (OSError, ValueError, TypeError):
        evaluation = evaluate()
    content = json_text(asdict(evaluation)).encode()
    _keep(file, b"%08x\n" % zlib.crc32(content) + content)
    return evaluation


def base_arrays(key: dict[str, Any], code: tuple[str, ...], measure: Callable[[], Arrays]) -> Arrays:
    """Return arrays measured of the untouched model, from the cache or computed and put there.

    Args:
        key: the content that decides them: what is asked, and :func:`base_facts`.
        code: the rooms of the package that measure.
    """
    file = _file("analyses", key | {"code": code_sha256(*code)}, "safetensors")
    try:
        return load(file.read_bytes())
    except (OSError, ValueError, SafetensorError):
        arrays = measure()
    _keep(file, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    return arrays


def base_facts(weights: dict[str, Any], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return what decides the base model's numbers beside the items: weights and their
    configuration, precision, machine, torch."""
    facts = {"weights": [weights["sha256"], weights.get("config_sha256")], "dtype": str(dtype)}
    return facts | {"machine": describe_machine(device), "versions": versions()}


def _file(kind: str, key: dict[str, Any], suffix: str) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / kind / f"{digest[:24]}.{suffix}"


def _keep(file: Path, content: bytes) -> None:
    """A cache that cannot be written costs time, nothing else."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
