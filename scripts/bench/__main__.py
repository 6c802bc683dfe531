"""Time gdo and its peers and write ``results/benchmarks``.

    python -m bench methods|peers|scoring|arithmetic|scaling|start|page [--steps N] [OVERRIDE …]

``methods``: a training step of every method, each in a process of its own.
``peers``: gdo and a peer alternately, a few steps each, so that both meet the same moods of the machine.
``scoring``: the same for likelihoods and exact match, item by item the same choices or not.
``arithmetic``: how much of the machine's matrix rate a step reaches, and where its time goes.
``scaling``: steps by grown layers, length and batch size; items by few-shot examples.
``start``: until a command is there, and until the model is; the figures of all committed runs.
``page``: README.md, methods and scaling figure from what was measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch

from bench.page import write_page
from gdo_cli.config.build import load_run
from gdo_cli.config.options import options
from gdo_cli.experiment.plan import matrix_rate
from gdo_cli.lm.device import describe_machine
from gdo_cli.support.files import write_atomically
from gdo_cli.support.identity import identity
from gdo_cli.support.provenance import code_state, versions

Row = dict[str, Any]
WARM_UP = 3  # the first ones compile, and fault their memory in
TURN = 3  # steps before the other's turn: training makes no pauses, and a step after one takes longer
TOP_5 = "layers=[4,5,13,15,16]"  # the five that moved most in the committed pilot
# work → (gdo's overrides, peer, the peer's overrides)
PEERS = {
    "SFT step": (["method=sft"], "trl", []),
    "G-Freeze step, all layers": (["method=g_freeze"], "trl_lora", []),
    "G-Freeze step, naive growth": (["method=g_freeze"], "naive_growth", []),
    "G-Freeze step, top 5, against SFT": (["method=g_freeze", TOP_5], "gdo", ["method=sft"]),
}
# work → (gdo's worker, peer, overrides of both)
SCORING = {
    "WinoGrande by likelihood, 1,267 items": ("gdo_likelihood", "lm_eval", ["probe.winogrande.items=null"]),
    "WinoGrande by likelihood, in fp32": (
        "gdo_likelihood",
        "lm_eval",
        ["probe.winogrande.items=100", "train.precision=fp32"],
    ),
    "few-shot exact match, 10 examples": (
        "gdo_exact",
        "generate",
        ["probe.winogrande.items=500", "probe.winogrande.shots=10"],
    ),
    "few-shot exact match, in fp32": (
        "gdo_exact",
        "generate",
        ["probe.winogrande.items=100", "probe.winogrande.shots=10", "train.precision=fp32"],
    ),
}
SKIPPED = ("frozen", "wise_ft", "averaged")  # nothing to step
VARIANTS = {
    "attention_grow": [[], ["method.grow=head_dim"], ["method.with_mlp=true"]],
    "zero_init": [[], ["method.train=all"]],
}
EVEN_LAYERS = {n: [17 - i * 18 // n for i in range(n)] for n in (1, 3, 6, 12, 18)}
# axis → value → overrides of a G-Freeze step
SCALING: dict[str, dict[int, list[str]]] = {
    "grown layers": {n: [f"layers={layers}".replace(" ", "")] for n, layers in EVEN_LAYERS.items()},
    "tokens of a sequence": {n: [f"bench.length={n}"] for n in (32, 64, 128, 256, 512)},
    "sequences of a batch": {n: ["bench.length=64", f"train.batch_size={n}"] for n in (2, 4, 8, 16, 32)},
}
SHOTS = (0, 1, 2, 5, 10)
_LOAD = "import gdo_cli.experiment.run; from gdo_cli.config.build import load_run; load_run([]).model.load()"
# What is waited for → words behind `python`; nobody who uses transformers waits less than the second.
STARTS = {
    "gdo --help": ["-m", "gdo_cli", "--help"],
    "importing torch and transformers' Gemma 3": ["-c", "from transformers import Gemma3ForCausalLM"],
    "second start of the 270M": ["-c", _LOAD],
    "gdo plot": ["-m", "gdo_cli", "plot"],
}


class Worker:
    """A process that takes a step when it is asked to."""

    def __init__(self, name: str, overrides: list[str]) -> None:
        words = [sys.executable, "-m", "bench.workers", name, *overrides]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self) -> Row:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))}: ended with {self.process.wait()}")  # type: ignore[arg-type]
        content: Row = json.loads(line)
        return content

    def step(self) -> Row:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.answer()

    def turn(self) -> Row:
        """Several steps; returns the mean of their seconds."""
        return {"seconds": mean(float(self.step()["seconds"]) for _ in range(TURN))}

    def seconds(self, steps: int) -> list[float]:
        """Of so many steps after the warm-up."""
        return [float(self.step()["seconds"]) for _ in range(WARM_UP + steps)][WARM_UP:]

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


def methods(steps: int, more: list[str]) -> Iterator[Row]:
    """Seconds of a step and memory of every method."""
    for method in options("method"):
        for extra in [] if method in SKIPPED else VARIANTS.get(method, [[]]):
            overrides = [f"method={method}", *extra]
            with working("gdo", overrides + more) as worker:
                seconds = worker.seconds(steps)
                row = {"overrides": " ".join(overrides), "settings": settings_of(overrides + more)}
                yield row | {"peak_bytes": worker.end()} | spread(seconds)


def settings_of(overrides: list[str]) -> dict[str, Any]:
    """What a step works on: by it, figures find the row of a run."""
    config = load_run(overrides)
    names = {key: config.name[key] for key in ("model", "task")}
    return names | {"method": identity(config.method), "batch_size": config.train.batch_size}


def peers(steps: int, more: list[str]) -> Iterator[Row]:
    """Ratios of a peer's step to gdo's, taken in turn."""
    for work, (own, peer, theirs) in PEERS.items():
        with working("gdo", own + more) as ours, working(peer, theirs) as other:
            turns = [(ours.turn(), other.turn()) for _ in range(1 + -(-steps // TURN))]
            pairs = turns[1:]  # the first is the warm-up
            peaks = ours.end(), other.end()
        row = {"work": work, "peer": f"{peer} {' '.join(theirs)}".strip(), "peak_bytes": peaks}
        yield row | compared(pairs) | {"memory_ratio": peaks[0] / peaks[1]}


def scoring(steps: int, more: list[str]) -> Iterator[Row]:
    """Ratios of a peer's time for a part of the items to gdo's, and where their answers differ."""
    for work, (own, peer, overrides) in SCORING.items():
        with working(own, overrides + more) as ours, working(peer, overrides + more) as other:
            pairs = [(ours.step(), other.step()) for _ in range(min(steps, 10))]
        counts = {"items": sum(a["items"] for a, _ in pairs)}
        counts["differing"] = sum(
            x != y for a, b in pairs for x, y in zip(a["outcomes"], b["outcomes"], strict=True)
        )
        yield {"work": work, "peer": peer} | counts | compared(pairs)


def compared(pairs: list[tuple[Row, Row]]) -> Row:
    seconds = [(a["seconds"], b["seconds"]) for a, b in pairs]
    ours, other = zip(*seconds, strict=True)
    return {"gdo": spread(ours), "other": spread(other), "ratio": spread([b / a for a, b in seconds])}


def arithmetic(steps: int, more: list[str]) -> Iterator[Row]:
    """Operations of steps over their time and the machine's rate of bf16 products, before and after."""
    for method in ("g_freeze", "sft"):
        overrides = [f"method={method}", *more]
        rates = [matrix_rate()]
        with working("gdo", overrides) as worker:
            seconds = worker.seconds(steps)
        rates.append(matrix_rate())
        with working("gdo_counted", overrides) as worker:
            flops = [worker.step()["flops"] for _ in range(WARM_UP + steps)][WARM_UP:]
        with working("gdo_profiled", overrides) as worker:
            kinds = [worker.step()["kinds"] for _ in range(WARM_UP + steps)][WARM_UP:]
        total = Counter[str]()
        for step in kinds:
            total.update(step)
        rate = max(rates)
        yield {
            "work": f"{method} step",
            "flops": spread(flops),
            "seconds": spread(seconds),
            "matrix_rate": rate,
            "share_of_rate": sum(flops) / sum(seconds) / rate,
            "time_by_kind": {kind: spent / total.total() for kind, spent in total.most_common()},
        }


def scaling(steps: int, more: list[str]) -> Iterator[Row]:
    """G-Freeze steps along each axis, and WinoGrande's items by the number of examples shown."""
    for axis, values in SCALING.items():
        for value, words in values.items():
            with working("gdo", ["method=g_freeze", *words, *more]) as worker:
                seconds = spread(worker.seconds(steps))
                yield {"axis": axis, "value": value, **seconds, "peak_bytes": worker.end()}
    for shots in SHOTS:
        with working("gdo_exact", [f"probe.winogrande.shots={shots}", *more]) as worker:
            parts = [worker.step() for _ in range(min(steps, 10))]
            a_item = [part["seconds"] / part["items"] for part in parts]
            yield {"axis": "examples shown", "value": shots, **spread(a_item), "peak_bytes": worker.end()}


def start(steps: int, _more: list[str]) -> Iterator[Row]:
    """Seconds of whole processes, in turn; the first turn fills the caches and is left out."""
    turns = [[_seconds(words) for words in STARTS.values()] for _ in range(1 + steps)]
    for work, *seconds in zip(STARTS, *turns[1:], strict=True):
        yield {"work": work, **spread(seconds)}


def _seconds(words: list[str]) -> float:
    began = perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - began


def spread(values: Any) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}


WORK: dict[str, Callable[[int, list[str]], Iterator[Row]]] = {
    "methods": methods,
    "peers": peers,
    "scoring": scoring,
    "arithmetic": arithmetic,
    "scaling": scaling,
    "start": start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=(*WORK, "page"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("overrides", nargs="*", help="for gdo's own workers, e.g. train.compile=never")
    given = parser.parse_intermixed_args()
    if given.what != "page":
        machine = describe_machine(torch.device("cpu"))
        record: Row = {"machine": machine, "versions": versions(), "code": code_state()}
        record |= {"overrides": given.overrides, "rows": []}
        given.out.mkdir(parents=True, exist_ok=True)
        for row in WORK[given.what](given.steps, given.overrides):
            print(json.dumps(row), flush=True)
            record["rows"].append(row)
            content = json.dumps(record, indent=1) + "\n"
            write_atomically(given.out / f"{given.what}.json", content.encode())
    write_page(given.out)


if __name__ == "__main__":
    main()
