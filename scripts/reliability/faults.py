"""Each fault is brought about for real: a function that takes an empty folder and says what came of it."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reliability.process import Process, remount, small_disk, start, until
from reliability.work import (
    RUN,
    Outcome,
    difference,
    finished,
    last_line,
    log_of,
    quoted,
    resumed,
    run_folder,
    train,
    undisturbed,
)

Try = Callable[[Path, int], Outcome]


@dataclass(frozen=True)
class Fault:
    """A fault, how it is brought about, and how often."""

    name: str
    how: str
    times: int
    work: Try


FAULTS: list[Fault] = []


def fault(name: str, how: str, times: int) -> Callable[[Try], Try]:
    def note(work: Try) -> Try:
        FAULTS.append(Fault(name, how, times, work))
        return work

    return note


def begin(results: Path, *more: str) -> Process:
    return start(["train", *RUN, f"results_dir={quoted(results)}", *more], log_of(results))


def stage(results: Path) -> str:
    """How far a run had come, by what lies in its folder."""
    folder = run_folder(results)
    if folder is None or not (folder / "metrics.jsonl").exists():
        return "loading"
    if (folder / "result.json").exists():
        return "after the result"
    if (folder / "adapter").exists():
        return "writing the result"
    if list(folder.glob(".checkpoint*.tmp")):
        return "writing a checkpoint"
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return "training or evaluating" if len(lines) < 28 else "last evaluation"


# ------------------------------------------------------------------------------------------- signals


@fault(
    "SIGKILL",
    "at a random moment of a run (loading, training, evaluation, checkpoint, result); then the same command",
    20,
)
def killed(folder: Path, times: int) -> Outcome:
    _, seconds = undisturbed()
    moments, stages, wrong = random.Random(5), Counter[str](), []
    for n in range(times):
        results = folder / f"kill{n}"
        process = begin(results)
        # Half of them anywhere, half where something has been trained.
        if n % 2:
            until(lambda results=results: stage(results) != "loading")  # type: ignore[misc]
        time.sleep(moments.random() * seconds * (0.4 if n % 2 else 1))
        process.signal(signal.SIGKILL)
        process.wait()
        stages[stage(results)] += 1
        wrong += resumed(results)
    seen = ", ".join(f"{n} × {name}" for name, n in stages.most_common())
    return Outcome(times, f"{seen}; every run ended in the same bits", wrong)


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


# --------------------------------------------------------------------------------------------- disks


@fault(
    "disk full",
    "a file system of 16 KiB to 3 MiB; then room is made and the same command given",
    7,
)
def disk_full(folder: Path, times: int) -> Outcome:
    wrong, said = [], Counter[str]()
    for n, size in enumerate((16, 64, 400, 900, 1400, 2000, 3000)[:times]):
        with small_disk(folder / f"disk{n}", f"{size}k") as disk:
            results = disk / "results"
            end = train(results)
            if end.code == 0:
                said["was enough, without some checkpoints"] += 1
                wrong += difference(results)
                continue
            said["one message, exit code " + str(end.code)] += 1
            if "No space left" not in end.said or "Traceback" in end.said:
                wrong.append(f"{size} KiB: {last_line(end)}")
            if finished(results):
                wrong.append(f"{size} KiB: half a result is taken for a whole one")
            remount(disk, "size=64m")
            end = train(results)
            wrong += difference(results) if end.code == 0 else [f"{size} KiB: {last_line(end)}"]
    return Outcome(times, _counted(said) + "; the same bits after room was made", wrong)


def _counted(what: Counter[str]) -> str:
    return "; ".join(f"{n} × {name}" for name, n in what.most_common())


@fault("a file too large for its limit", "RLIMIT_FSIZE of 10 to 900 KiB for every file; then without", 4)
def file_limit(folder: Path, times: int) -> Outcome:
    wrong, said = [], Counter[str]()
    for n, size in enumerate((10, 100, 300, 900)[:times]):
        results = folder / f"limit{n}"
        limit = (size * 1024, size * 1024)
        end = train(results, before=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        said[f"exit code {end.code}"] += 1
        if "Traceback" in end.said or (end.code == 0) != finished(results):
            wrong.append(f"{size} KiB: {last_line(end)}")
        wrong += resumed(results)
    return Outcome(times, f"{_counted(said)}; the same bits without the limit", wrong)


def _without_privileges() -> None:
    """Lose root's right to write where no permission allows it (capabilities(7), CAP_DAC_OVERRIDE)."""
    header = struct.pack("Ii", 0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@fault("no permission", "in a folder that may not be written, without root's privileges", 2)
def no_permission(folder: Path, times: int) -> Outcome:
    wrong = []
    for n in range(times):
        results = folder / f"mine{n}"
        results.mkdir()
        results.chmod(0o555)
        end = train(results, before=_without_privileges, env={"GDO_CACHE_DIR": "/nonexistent"})
        if end.code != 2 or "cannot be written" not in end.said or "Traceback" in end.said:
            wrong.append(f"ended with {end.code}: {last_line(end)}")
    return Outcome(times, "one message, exit code 2; a cache that cannot be written costs time alone", wrong)


@fault("read-only folder", "a file system that becomes read-only before and during the run", 2)
def read_only(folder: Path, times: int) -> Outcome:
    wrong = []
    with small_disk(folder / "before", "32m") as disk:
        remount(disk, "ro")
        end = train(disk / "results")
        if end.code != 2 or "cannot be written" not in end.said:
            wrong.append(f"before: ended with {end.code}: {last_line(end)}")
    with small_disk(folder / "during", "32m") as disk:
        results = disk / "results"
        process = begin(results)
        until(lambda: stage(results) != "loading")
        process.signal(signal.SIGSTOP)
        # What is open for writing holds up the change, so the disk is filled instead where it does.
        frozen = os.system(f"mount -o remount,ro '{disk}' 2>/dev/null") == 0
        process.signal(signal.SIGCONT)
        end = process.wait()
        if frozen and (end.code != 1 or "Read-only" not in end.said):
            wrong.append(f"during: ended with {end.code}: {last_line(end)}")
        remount(disk, "rw")
        wrong += resumed(results)
    return Outcome(times, "one message; the same bits when it could be written again", wrong)


@fault("a path with spaces and letters of other scripts", "killed there, resumed, listed, measured", 2)
def odd_paths(folder: Path, times: int) -> Outcome:
    wrong = []
    for name in ("mit Leerzeichen und Größe", "研究 – it's 50 % done, [a]=b")[:times]:
        results = folder / name / "Ergebnisse α"
        process = begin(results)
        until(lambda results=results: stage(results) != "loading")  # type: ignore[misc]
        process.signal(signal.SIGKILL)
        process.wait()
        wrong += [f"{name}: {what}" for what in resumed(results)]
        for words in (["ls"], ["show", "seed0"], ["evaluate", "seed0"]):
            end = start([*words, "--results", str(results)], log_of(results)).wait()
            if end.code != 0:
                wrong.append(f"{name}: {words[0]} ended with {end.code}: {last_line(end)}")
    return Outcome(times, "the same bits; ls, show and evaluate find it", wrong)


# ------------------------------------------------------------------------------------ files that are broken


def _damages(n: int) -> Callable[[Path], object]:
    random_ = random.Random(n)

    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
        file.write_bytes(content)

    def cut(file: Path) -> None:
        os.truncate(file, random_.randrange(file.stat().st_size))

    return flip if n % 2 else cut


@fault("corrupt or truncated checkpoint", "a bit flipped or the end cut off at a random place", 10)
def broken_checkpoint(folder: Path, times: int) -> Outcome:
    wrong = []
    cut = folder / "cut"
    process = begin(cut)
    until(lambda: _checkpoint(cut) is not None)
    process.signal(signal.SIGKILL)
    process.wait()
    for n in range(times):
        results = folder / f"broken{n}"
        shutil.copytree(cut, results)
        file = _checkpoint(results)
        assert file is not None
        _damages(n)(file)
        end = train(results)
        if "is of no use" not in end.said:
            wrong.append("the damage was not noticed")
        wrong += difference(results) if end.code == 0 else [last_line(end)]
    return Outcome(times, "noticed and named each time; the run started again, the same bits", wrong)


def _checkpoint(results: Path) -> Path | None:
    folder = run_folder(results)
    file = folder / "checkpoint.safetensors" if folder else None
    return file if file and file.exists() else None


@fault("corrupt or truncated result or adapter", "cut off or a bit of the header flipped; ls, evaluate", 6)
def broken_result(folder: Path, times: int) -> Outcome:
    wrong = []
    whole, _ = undisturbed()
    for n in range(times):
        results = folder / f"result{n}"
        shutil.copytree(whole, results)
        place = run_folder(results)
        assert place is not None
        name, words = (
            ("result.json", ["ls"]) if n % 2 else ("adapter/adapter_model.safetensors", ["evaluate", "seed0"])
        )
        os.truncate(place / name, random.Random(n).randrange((place / name).stat().st_size))
        end = start([*words, "--results", str(results)], log_of(results)).wait()
        if end.code != 2 or "Traceback" in end.said or "error: " not in end.said:
            wrong.append(f"{name}: ended with {end.code}: {last_line(end)}")
    return Outcome(times, "one message with the file and the mend, exit code 2", wrong)


# --------------------------------------------------------------------------------------- several processes


@fault("two processes on the same run", "started together", 5)
def two_processes(folder: Path, times: int) -> Outcome:
    wrong, said = [], Counter[str]()
    for n in range(times):
        results = folder / f"both{n}"
        ends = [process.wait() for process in [begin(results), begin(results)]]
        codes = sorted(end.code for end in ends)
        said[f"exit codes {codes[0]} and {codes[1]}"] += 1
        busy = [end for end in ends if end.code == 2]
        if codes != [0, 2] or "another process is working on this run" not in busy[0].said:
            wrong.append(f"{codes}: {last_line(ends[0])} / {last_line(ends[1])}")
        wrong += difference(results)
    return Outcome(times, f"one works, the other says so ({_counted(said)}); the same bits", wrong)


@fault("two sweeps on the same grid", "started together, four points", 2)
def two_sweeps(folder: Path, times: int) -> Outcome:
    wrong = []
    for n in range(times):
        results = folder / f"sweeps{n}"
        words = ["sweep", *RUN, f"results_dir={quoted(results)}", "seed=0,1,2,3"]
        logs = [folder / f"sweeps{n}-{i}.log" for i in range(2)]
        ends = [process.wait() for process in [start(words, log) for log in logs]]
        if [end.code for end in ends] != [0, 0]:
            wrong.append(f"ended with {[end.code for end in ends]}: {last_line(ends[0])}")
        done = sum(line.strip().startswith("final") for end in ends for line in end.said.splitlines())
        if len(list(results.glob("runs/*/*/*/*/result.json"))) != 4 or done != 4:
            wrong.append(f"{done} points were computed instead of 4")
    return Outcome(times, "every point done, none twice", wrong)


# ------------------------------------------------------------------------------------ numbers and memory


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
