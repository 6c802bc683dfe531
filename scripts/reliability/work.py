"""The run that the faults happen to, and the comparison with one that nothing happened to."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import Any

from reliability.process import Ended, Process, gdo, start

STEPS, EVALUATED_EVERY = 24, 8
RUN = (
    "model=tiny",
    "data=sample",
    "method=g_freeze",
    "train.precision=fp32",
    f"train.steps={STEPS}",
    "train.batch_size=4",
    "train.lr=1e-2",
    "train.checkpoint_every=2",
    f"evaluation.every={EVALUATED_EVERY}",
    "evaluation.items=16",
    "evaluation.final_items=16",
    "evaluation.kl_prompts=2",
    "probe.winogrande.items=8",
    "probe.winogrande.shots=1",
)
# "code": whether the checkout has changes may change while this runs.
TIMES = ("wall_seconds", "train_seconds", "tokens_per_second", "peak_memory_bytes", "overrides", "code")


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Attributes:
        times: how often it was tried.
        seen: what was seen, in words for the table.
        wrong: what should not have been; empty is good.
    """

    times: int
    seen: str
    wrong: list[str]


def train(results: Path, *more: str, **process: Any) -> Ended:
    """The run, under the results folder; its messages are kept elsewhere, where there is room."""
    return gdo("train", *RUN, f"results_dir={quoted(results)}", *more, log=log_of(results), **process)


def begin(results: Path, *more: str) -> Process:
    """The same, not waited for."""
    return start(["train", *RUN, f"results_dir={quoted(results)}", *more], log_of(results))


def quoted(path: Path | str) -> str:
    """A path as Hydra's overrides quote it."""
    return "'" + str(path).replace("'", "\\'") + "'"


def log_of(results: Path) -> Path:
    return Path(gettempdir()) / f"gdo-reliability-{os.getpid()}" / f"{abs(hash(results))}.log"


def run_folder(results: Path) -> Path | None:
    """The folder of the only run, if it has begun."""
    return next(results.glob("runs/*/*/*/seed*"), None)


def lines_of_metrics(results: Path) -> list[str]:
    folder = run_folder(results)
    file = folder / "metrics.jsonl" if folder else None
    return file.read_text("utf-8").splitlines() if file and file.exists() else []


def stage(results: Path) -> str:
    """How far a run has come, by what lies in its folder."""
    folder, lines = run_folder(results), lines_of_metrics(results)
    if folder is None or not lines:
        return "loading"
    names = {entry.name for entry in folder.iterdir()}
    if "result.json" in names:
        return "after the result"
    if "adapter" in names or ".result.json.tmp" in names:
        return "writing the result"
    if any(name.startswith((".checkpoint", ".tmp")) for name in names):
        return "writing a checkpoint"
    if not lines[-1].endswith("}"):
        return "training"  # a line is being written
    last = json.loads(lines[-1])
    if last["kind"] == "train":
        return "evaluating" if last["step"] % EVALUATED_EVERY == 0 else "training"
    return "training" if last["step"] < STEPS else "evaluating"


def counted(what: Counter[str]) -> str:
    return ", ".join(f"{n} × {name}" for name, n in what.most_common())


def finished(results: Path) -> bool:
    folder = run_folder(results)
    return folder is not None and (folder / "result.json").exists()


def contents(results: Path) -> dict[str, Any]:
    """Everything that a finished run leaves, to the bit, its times and memory left out."""
    folder = run_folder(results)
    assert folder is not None
    record = json.loads((folder / "result.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {
        "record": {key: value for key, value in record.items() if key not in TIMES},
        "metrics": [{k: v for k, v in line.items() if k != "seconds"} for line in lines],
        "predictions": gzip.decompress((folder / "predictions.jsonl.gz").read_bytes()),
        "weights": {f.name: f.read_bytes() for f in folder.rglob("*.safetensors")},
        "files": sorted(entry.name for entry in folder.iterdir()),
    }


@cache
def undisturbed() -> tuple[Path, float]:
    """The folder of a run that nothing happened to, and its seconds (with the base's evaluation cached)."""
    results = Path(mkdtemp(prefix="gdo-undisturbed-")) / "results"
    first = train(results)
    assert first.code == 0, first.said
    again = train(results, "--force")
    assert again.code == 0, again.said
    return results, again.seconds


def difference(results: Path) -> list[str]:
    """In what a finished run differs from the undisturbed one; empty if in no bit."""
    if not finished(results):
        return ["the run did not finish"]
    one, other = contents(undisturbed()[0]), contents(results)
    return [f"its {key} differ" for key in one if one[key] != other[key]]


def resumed(results: Path, *more: str, **process: Any) -> list[str]:
    """Give the same command again; what is wrong with its end."""
    end = train(results, *more, **process)
    if end.code != 0:
        return [f"the same command ended with {end.code}: {last_line(end)}"]
    return difference(results)


def last_line(end: Ended) -> str:
    lines = end.said.strip().splitlines()
    return lines[-1] if lines else ""
