"""Several processes on the same work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from reliability.process import start
from reliability.registry import fault
from reliability.work import RUN, Outcome, begin, counted, difference, last_line, quoted


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
    return Outcome(times, f"one works, the other says so ({counted(said)}); the same bits", wrong)


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
