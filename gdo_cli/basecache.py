"""The base model's evaluation, computed once for all runs that start from the same model and measure
the same things."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gdo_cli.evaluation import Evaluation, Suite
from gdo_cli.models import cache_dir
from gdo_cli.results import write_atomically


def base_evaluation(suite: Suite, facts: dict[str, Any], evaluate: Callable[[], Evaluation]) -> Evaluation:
    """The evaluation of the untouched model, from the cache or computed and put there.

    The key is the content: every token asked and scored, the weights' checksum and precision
    (``facts``), and the code that measures. A file that cannot be read is computed again.
    """
    key = {"suite": suite.fingerprint(), "code": _code_sha256(), **facts}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = cache_dir() / "evaluations" / f"{digest[:24]}.json"
    try:
        checksum, content = file.read_bytes().split(b"\n", 1)
        if checksum != b"%08x" % zlib.crc32(content):
            raise ValueError("a bit has changed")
        return Evaluation(**json.loads(content))
    except (OSError, ValueError, TypeError):
        evaluation = evaluate()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(asdict(evaluation)).encode()
        write_atomically(file, b"%08x\n" % zlib.crc32(content) + content)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
    return evaluation


def _code_sha256() -> str:
    root = Path(__file__).parent
    names = ("evaluation", "divergence", "scoring", "vocabulary", "packing", "scores", "tokens", "device")
    files = [*(root / f"{name}.py" for name in names), *sorted((root / "probes").glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
