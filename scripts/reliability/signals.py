"""Processes that are killed or asked to stop."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

from reliability.process import until
from reliability.registry import fault
from reliability.work import (
    Outcome,
    begin,
    counted,
    difference,
    last_line,
    lines_of_metrics,
    resumed,
    stage,
    undisturbed,
)

# Where a run is killed, and the most seconds after that stage has been seen.
MOMENTS = {
    "loading": 1.5,
    "training": 0.05,
    "evaluating": 0.3,
    "writing a checkpoint": 0.002,
    "writing the result": 0.02,
}


@fault(
    "SIGKILL",
    "at random moments of loading, training, evaluation, checkpoint and result; then the same command",
    20,
)
def killed(folder: Path, times: int) -> Outcome:
    random_, stages, wrong = random.Random(5), Counter[str](), []
    for n in range(times):
        results = folder / f"kill{n}"
        wanted = list(MOMENTS)[n % len(MOMENTS)]
        after = random_.randrange(1, 20) if wanted in list(MOMENTS)[1:4] else 0
        process = begin(results)
        until(lambda: len(lines_of_metrics(results)) >= after)  # noqa: B023 - called at once
        until(lambda: stage(results) == wanted)  # noqa: B023
        time.sleep(random_.random() * MOMENTS[wanted])
        process.signal(signal.SIGKILL)
        process.wait()
        stages[stage(results)] += 1
        wrong += resumed(results)
    return Outcome(times, f"{counted(stages)}; every run ended in the same bits", wrong)


@fault("SIGKILL, again and again", "the same run killed after a second or so until it is done", 3)
def killed_again(folder: Path, times: int) -> Outcome:
    _, seconds = undisturbed()
    wrong, kills = [], 0
    for n in range(times):
        results = folder / f"again{n}"
        for attempt in range(60):
            process = begin(results)
            until(lambda process=process: not process.running(), seconds * (0.5 + 0.02 * attempt))  # type: ignore[misc]
            if not process.running():
                break
            process.signal(signal.SIGKILL)
            process.wait()
            kills += 1
        wrong += difference(results)
    return Outcome(times, f"{kills} kills in all; the same bits", wrong)


def _ended_by(folder: Path, times: int, number: int, code: int, name: str) -> Outcome:
    wrong, moments, waited = [], random.Random(number), 0.0
    for n in range(times):
        results = folder / f"signal{number}-{n}"
        process = begin(results)
        until(lambda results=results: stage(results) != "loading")  # type: ignore[misc]
        time.sleep(0.3 * moments.random())
        asked = time.monotonic()
        process.signal(number)
        end = process.wait()
        waited = max(waited, time.monotonic() - asked)
        if end.code != code or f"stopped by {name}" not in end.said:
            wrong.append(f"ended with {end.code}: {last_line(end)}")
        elif "the same command goes on from the last checkpoint" not in end.said:
            wrong.append(f"said: {last_line(end)}")
        wrong += resumed(results)
    return Outcome(times, f"exit code {code}, a checkpoint within {waited:.1f} s, the same bits", wrong)


@fault("SIGTERM", "at a random moment of training or evaluation; then the same command", 6)
def terminated(folder: Path, times: int) -> Outcome:
    return _ended_by(folder, times, signal.SIGTERM, 143, "SIGTERM")


@fault("Ctrl-C", "the same with SIGINT", 6)
def interrupted(folder: Path, times: int) -> Outcome:
    return _ended_by(folder, times, signal.SIGINT, 130, "Ctrl-C")


@fault("Ctrl-C twice", "a step of several seconds, interrupted twice", 3)
def interrupted_twice(folder: Path, times: int) -> Outcome:
    wrong, waited = [], 0.0
    for n in range(times):
        results = folder / f"twice{n}"
        process = begin(results, "train.batch_size=1024", "train.gradient_accumulation_steps=32")
        until(lambda results=results: stage(results) != "loading")  # type: ignore[misc]
        time.sleep(0.5)
        process.signal(signal.SIGINT)
        time.sleep(0.3)
        if not process.running():
            wrong.append("it did not wait for the end of its step")
        process.signal(signal.SIGINT)
        asked = time.monotonic()
        end = process.wait()
        waited = max(waited, time.monotonic() - asked)
        if end.code != 130:
            wrong.append(f"ended with {end.code}: {last_line(end)}")
    if waited > 1:
        wrong.append(f"the second one took {waited:.1f} s")
    return Outcome(times, f"gone within {waited:.2f} s, exit code 130", wrong)
