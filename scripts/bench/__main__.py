"""Time gdo and its peers and write ``results/benchmarks``.

    python -m bench methods|peers [--steps N] [--out results/benchmarks] [OVERRIDE …]

``methods``: a training step of every method, each in a process of its own.
``peers``: gdo and a peer alternately, step by step, so that both meet the same moods of the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gdo_cli.config import options
from gdo_cli.device import describe_machine
from gdo_cli.provenance import code_state, versions
from gdo_cli.results import write_atomically

WARM_UP = 2
TOP_5 = "layers=[4,5,13,15,16]"  # the five that moved most in the committed pilot
# work → (gdo's overrides, peer, the peer's overrides)
PEERS = {
    "SFT step": (["method=sft"], "trl", []),
    "G-Freeze step, all layers": (["method=g_freeze"], "trl_lora", []),
    "G-Freeze step, naive growth": (["method=g_freeze"], "naive_growth", []),
    "G-Freeze step, top 5, against SFT": (["method=g_freeze", TOP_5], "gdo", ["method=sft"]),
}
SKIPPED = ("frozen", "wise_ft")  # nothing to step
VARIANTS = {
    "attention_grow": [[], ["method.grow=head_dim"], ["method.with_mlp=true"]],
    "zero_init": [[], ["method.train=all"]],
}


class Worker:
    """A process that takes a step when it is asked to."""

    def __init__(self, name: str, overrides: list[str]) -> None:
        words = [sys.executable, "-m", "bench.workers", name, *overrides]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))}: ended with {self.process.wait()}")  # type: ignore[arg-type]
        content: dict[str, Any] = json.loads(line)
        return content

    def step(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return float(self.answer()["seconds"])

    def end(self) -> int:
        """Let it go; returns its peak of memory in bytes."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return int(self.answer()["peak"])


@contextmanager
def working(name: str, overrides: list[str]) -> Iterator[Worker]:
    worker = Worker(name, overrides)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def methods(steps: int, more: list[str]) -> Iterator[dict[str, Any]]:
    """Seconds of a step and memory of every method."""
    for method in options("method"):
        for extra in [] if method in SKIPPED else VARIANTS.get(method, [[]]):
            overrides = [f"method={method}", *extra]
            with working("gdo", overrides + more) as worker:
                seconds = [worker.step() for _ in range(WARM_UP + steps)][WARM_UP:]
                yield {"overrides": " ".join(overrides), "peak_bytes": worker.end()} | spread(seconds)


def peers(steps: int, more: list[str]) -> Iterator[dict[str, Any]]:
    """Ratios of a peer's step to gdo's, taken in turn."""
    for work, (own, peer, theirs) in PEERS.items():
        with working("gdo", own + more) as ours, working(peer, theirs) as other:
            pairs = [(ours.step(), other.step()) for _ in range(WARM_UP + steps)][WARM_UP:]
            peaks = ours.end(), other.end()
        row: dict[str, Any] = {"work": work, "peer": f"{peer} {' '.join(theirs)}".strip()}
        row |= {"gdo": spread([a for a, _ in pairs]), "other": spread([b for _, b in pairs])}
        row |= {"ratio": spread([b / a for a, b in pairs]), "peak_bytes": peaks}
        yield row | {"memory_ratio": peaks[0] / peaks[1]}


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("methods", "peers"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("overrides", nargs="*", help="for gdo's own workers, e.g. train.compile=never")
    given = parser.parse_intermixed_args()
    machine = describe_machine(torch.device("cpu"))
    record: dict[str, Any] = {"machine": machine, "versions": versions(), "code": code_state()}
    record |= {"overrides": given.overrides, "rows": []}
    given.out.mkdir(parents=True, exist_ok=True)
    for row in {"methods": methods, "peers": peers}[given.what](given.steps, given.overrides):
        print(json.dumps(row), flush=True)
        record["rows"].append(row)
        write_atomically(given.out / f"{given.what}.json", (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
