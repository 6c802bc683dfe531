"""Numbers that are none, and memory that gives out."""

from __future__ import annotations

import resource
from pathlib import Path

from reliability.registry import fault
from reliability.work import Outcome, last_line, run_folder, train


def _failed(results: Path, *message: str) -> list[str]:
    """What is wrong with a run that should have failed with this message."""
    place = run_folder(results)
    assert place is not None
    wrong = [] if (place / "failed.json").exists() else ["it is not marked as failed"]
    text = (place / "failed.json").read_text("utf-8") if not wrong else ""
    wrong += [f"its message lacks {part!r}: {text}" for part in message if part not in text]
    lines = (place / "metrics.jsonl").read_text("utf-8") if (place / "metrics.jsonl").exists() else ""
    if '"evaluation"' not in lines:
        wrong.append("its earlier evaluation is lost")
    return wrong


@fault("a loss that is no number", "learning rates of 1e30 and 1e38", 2)
def no_number(folder: Path, times: int) -> Outcome:
    wrong = []
    for n, rate in enumerate(("1e30", "1e38")[:times]):
        results = folder / f"nan{n}"
        end = train(results, f"train.lr={rate}")
        if end.code != 1 or "Traceback" in end.said:
            wrong.append(f"ended with {end.code}: {last_line(end)}")
        wrong += _failed(results, "step ", "a batch of 4 examples", f"lower train.lr={float(rate)}")
    return Outcome(
        times, "exit code 1; step, batch and rate named; marked as failed; evaluations stay", wrong
    )


def _little_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20, -1))


@fault("out of memory", "batches of 65,536 examples in 0.7 GiB (RLIMIT_AS)", 2)
def no_memory(folder: Path, times: int) -> Outcome:
    wrong = []
    for n in range(times):
        results = folder / f"memory{n}"
        end = train(results, "train.batch_size=65536", before=_little_memory)
        if end.code != 1 or "Traceback" in end.said:
            wrong.append(f"ended with {end.code}: {last_line(end)}")
        wrong += _failed(results, "step 1 of 24", "65536 examples", "out of memory", "lower train.batch_size")
    return Outcome(times, "exit code 1; step, batch and what to lower named; marked as failed", wrong)
