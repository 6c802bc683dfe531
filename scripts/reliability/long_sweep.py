"""What a long sweep leaves in memory and in its log, run by run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from reliability.process import gdo
from reliability.registry import fault
from reliability.work import RUN, Outcome, last_line, quoted

QUICK = ("train.steps=2", "evaluation.every=2", "evaluation.items=4", "evaluation.final_items=4")


@fault("a long sweep", "quick points, one after another in one process", 200, quick=40)
def long_sweep(folder: Path, times: int) -> Outcome:
    log, memory = folder / "sweep.log", folder / "memory"
    results = folder / "results"
    words = ["sweep", *RUN, *QUICK, f"results_dir={quoted(results)}", f"seed=range({times})"]
    end = gdo(*words, log=log, before=lambda: watch_memory(memory), limit=3600)
    sizes = [int(line) for line in memory.read_text().split()]
    wrong = [] if end.code == 0 else [last_line(end)]
    if len(sizes) < times:
        return Outcome(times, "", [*wrong, f"{len(sizes)} runs were done"])
    early, late = sizes[times // 5], sizes[-1]
    per_run = (late - early) / (times - times // 5)
    lines = len(re.findall(r"\n", end.said)) / times
    if per_run > 2**20:
        wrong.append(f"{per_run / 2**20:.1f} MiB more with every run")
    seen = (
        f"resident memory {early / 2**20:.0f} MiB after {times // 5} runs, {late / 2**20:.0f} MiB at the end "
    )
    seen += f"({per_run / 1024:.0f} KiB a run); {lines:.1f} lines of log a run"
    return Outcome(times, seen, wrong)


def watch_memory(file: Path) -> None:
    """Note the resident memory at the end of every run of this process."""
    from gdo_cli.runs.folder import RunFolder
    from gdo_cli.runs.record import RunRecord

    usual = RunFolder.seal

    def seal(self: RunFolder, record: RunRecord) -> object:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        with file.open("a") as stream:
            stream.write(f"{pages * os.sysconf('SC_PAGE_SIZE')}\n")
        return usual(self, record)

    RunFolder.seal = seal  # type: ignore[method-assign, assignment]
