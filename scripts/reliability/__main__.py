"""Bring every fault about, for real, and write ``results/reliability.md``.

python -m reliability [--only PART_OF_A_NAME …] [--times AT_MOST] [--jobs N] [--out results/reliability.md]
python -m reliability --tried
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from gdo_cli.lm.device import describe_machine
from gdo_cli.support.provenance import code_state, versions
from reliability.faults import FAULTS
from reliability.registry import Fault
from reliability.tried import CASES, with_section
from reliability.work import Outcome, undisturbed

HEAD = """# Reliability

Every row was brought about by `python -m reliability` (`make reliability`) in processes of their own, on the
tiny model. "The same bits" means: metrics, predictions, weights and result of the run equal those of a run
that nothing happened to, bit for bit, times and memory apart. The long form of the tests, `make test-faults`,
does the same fewer times; the list of {inputs} bad inputs with their messages is `tests/test_bad_input.py`.

| fault | how tried | times | outcome |
| --- | --- | ---: | --- |
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="reliability", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/reliability.md"))
    parser.add_argument("--tried", action="store_true", help="write that section anew, nothing else")
    arguments = parser.parse_args()
    if arguments.tried:
        page = with_section(arguments.out.read_text("utf-8"), CASES.read_text("utf-8"))
        arguments.out.write_text(page, "utf-8")
        return
    torch.set_num_threads(1)
    chosen = [f for f in FAULTS if not arguments.only or any(word in f.name for word in arguments.only)]
    machine, code = describe_machine(torch.device("cpu")), code_state()
    undisturbed()  # once, for all of them
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("fork")) as pool:
        outcomes = pool.map(_tried, chosen, [arguments.times] * len(chosen))
        lines = [_line(fault, outcome) for fault, outcome in zip(chosen, outcomes, strict=True)]
    about = f"{machine['cpu']}, {machine['system']}, Python {machine['python']}, torch {versions()['torch']}"
    changes = " with changes" if code.get("dirty") else ""
    page = HEAD.format(inputs=_bad_inputs()) + "\n".join(lines)
    page += f"\n\nOn {about}; commit {str(code.get('commit', 'unknown'))[:12]}{changes}.\n"
    arguments.out.write_text(with_section(page, CASES.read_text("utf-8")), "utf-8")


def _tried(fault: Fault, at_most: int) -> Outcome:
    began = time.monotonic()
    with TemporaryDirectory(prefix="gdo-faults-") as folder:
        try:
            outcome = fault.work(Path(folder), min(fault.times, at_most))
        except PermissionError as error:  # e.g. no file system can be mounted here
            outcome = Outcome(0, f"not tried: {error}", [])
    print(f"{fault.name}: {outcome} ({time.monotonic() - began:.0f} s)", flush=True)
    return outcome


def _line(fault: Fault, outcome: Outcome) -> str:
    seen = "**wrong**: " + "; ".join(outcome.wrong) if outcome.wrong else outcome.seen
    return f"| {fault.name} | {fault.how} | {outcome.times} | {seen} |"


def _bad_inputs() -> int:
    import re

    return len(re.findall(r"^    Case\(", Path("tests/test_bad_input.py").read_text("utf-8"), re.MULTILINE))


if __name__ == "__main__":
    main()
