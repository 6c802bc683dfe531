"""Disks that are full, folders that may not be written, odd paths."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections import Counter
from pathlib import Path

from reliability.process import remount, small_disk, start, until
from reliability.registry import fault
from reliability.work import (
    Outcome,
    begin,
    counted,
    difference,
    finished,
    last_line,
    log_of,
    resumed,
    stage,
    train,
)


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
    return Outcome(times, counted(said) + "; the same bits after room was made", wrong)


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
    return Outcome(times, f"{counted(said)}; the same bits without the limit", wrong)


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
