"""Files that are cut off or altered."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from reliability.process import start, until
from reliability.registry import fault
from reliability.work import (
    Outcome,
    begin,
    difference,
    last_line,
    log_of,
    resumed,
    run_folder,
    train,
    undisturbed,
)


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
    wrong, noticed = [], 0
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
        damage = _damages(n)
        damage(file)
        end = train(results)
        told = "is of no use" in end.said
        noticed += told
        if not told and damage.__name__ == "cut":
            wrong.append("the damage was not noticed")
        wrong += difference(results) if end.code == 0 else [last_line(end)]
    seen = f"{noticed} × noticed and named, and the run started again; else in the padding; the same bits"
    return Outcome(times, seen, wrong)


def _checkpoint(results: Path) -> Path | None:
    folder = run_folder(results)
    file = folder / "checkpoint.pt" if folder else None
    return file if file and file.exists() else None


BROKEN = (  # what, how, and the command that meets it
    ("result.json", 0, ["ls"]),
    ("adapter/adapter_model.safetensors", 0, ["evaluate", "seed0"]),
    ("adapter/adapter_model.safetensors", 1, ["evaluate", "seed0"]),
)


@fault(
    "corrupt or truncated result or adapter",
    "cut off, or a bit of the weights flipped; ls, evaluate",
    9,
    quick=3,
)
def broken_result(folder: Path, times: int) -> Outcome:
    wrong = []
    whole, _ = undisturbed()
    for n in range(times):
        results = folder / f"result{n}"
        shutil.copytree(whole, results)
        place = run_folder(results)
        assert place is not None
        name, flip, words = BROKEN[n % len(BROKEN)]
        _damages(2 * n + flip)(place / name)
        end = start([*words, "--results", str(results)], log_of(results)).wait()
        if end.code != 2 or "Traceback" in end.said or "error: " not in end.said:
            wrong.append(f"{name}: ended with {end.code}: {last_line(end)}")
    return Outcome(times, "one message with the file and the mend, exit code 2", wrong)


@fault(
    "corrupt or truncated cache", "the base's evaluation in the cache cut off or a bit flipped", 6, quick=2
)
def broken_cache(folder: Path, times: int) -> Outcome:
    wrong = []
    undisturbed()
    for n in range(times):
        cache, results = folder / f"cache{n}", folder / f"run{n}"
        env = {"GDO_CACHE_DIR": str(cache)}
        wrong += resumed(folder / f"first{n}", env=env)
        files = [file for file in cache.rglob("*") if file.is_file()]
        for file in files:
            _damages(n)(file)
        wrong += resumed(results, env=env) if files else ["there is no cache"]
    return Outcome(times, "measured again; the same bits", wrong)
