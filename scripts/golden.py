"""What a change of the code's layout must leave as it is, to the bit.

``record`` runs a set of tiny runs (methods × tasks, interrupted and resumed, two processes), the commands on
finished runs, and ``gdo plot`` and ``make report`` on copies of the committed runs, and writes checksums and
numbers to a file. ``check`` does the same and tells what differs. Both belong on one machine: other kernels
round otherwise, so the file is not committed.

PYTHONPATH=scripts python -m golden record build/golden.json
PYTHONPATH=scripts python -m golden check build/golden.json
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GDO = [sys.executable, "-m", "gdo_cli"]
ROOT = Path(__file__).parent.parent
COMMON = [
    "model=tiny",
    "data=sample",
    "train.lr=1e-3",
    "train.steps=8",
    "train.batch_size=4",
    "train.warmup_steps=2",
    "train.precision=fp32",
    "evaluation.every=4",
    "evaluation.items=8",
    "evaluation.final_items=8",
    "evaluation.kl_prompts=4",
    "evaluation.ranks=true",
    "probe=[winogrande,arc_easy,lambada,perplexity]",
    *(f"probe.{name}.items=8" for name in ("winogrande", "arc_easy", "lambada", "perplexity")),
]
GRIDS = [
    [
        "method=sft,g_freeze,g_train,mlp_only,attention_only,lora,ia3,attention_grow,zero_init,zero_block,"
        "replay,kl_to_base,l2_sp,output_mix,frozen",
        "task=scitail",
    ],
    ["method=g_freeze", "task=qasc,mathqa,mtnt"],
    ["method=g_freeze", "task=scitail", "layers=2,[0,3]", "layer_rule=pilot,snr"],
    ["method=g_freeze", "task=scitail", "train.precision=bf16", "train.compile=always"],
    [
        "method=g_train",
        "task=scitail",
        "train.gradient_checkpointing=true",
        "train.token_budget=256",
        "seed=1",
    ],
    ["method=frozen", "task=scitail", "method.shots=2"],
]
# Fields of records that tell of the time, the machine or the code, not of what was computed.
PASSING = {
    "code",
    "wall_seconds",
    "train_seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "pilot_seconds",
    "seconds",
    "machine",
    "versions",
}


def run(*words: str, cwd: Path, check: bool = True) -> str:
    """Run a command; what it said on standard output."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment())
    if check and done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160", "PYTHONPATH": paths}


def tiny_runs(work: Path) -> None:
    """Every run, in ``work/results``."""
    for grid in GRIDS:
        run(*GDO, "sweep", *COMMON, *grid, cwd=work)
    resumed(work, [*COMMON, "task=scitail", "method=g_freeze", "seed=7", "train.checkpoint_every=2"])
    two = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29533", "-m", "gdo_cli"]
    run(sys.executable, *two, "train", *COMMON, "task=scitail", "method=g_freeze", "seed=9", cwd=work)
    rows = [{"q": f"{n} plus {n}", "a": str(2 * n)} for n in range(60)]
    (work / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["task=jsonl", "task.path=own.jsonl", "task.prompt='{q} ='", "task.completion='{a}'"]
    splits = "train:'all[:40]',validation:'all[40:50]',test:'all[50:]'"
    run(*GDO, "train", *COMMON, *own, f"task.dataset.splits={{{splits}}}", "method=sft", cwd=work)
    source = next((work / "results/runs/tiny/scitail").glob("sft-*/seed0"))
    wise = ["task=scitail", "method=wise_ft", f"method.run={source.parent.name}"]
    run(*GDO, "train", *COMMON, *wise, cwd=work)


def resumed(work: Path, words: list[str]) -> None:
    """A run that is stopped after a few steps, and goes on."""
    process = subprocess.Popen(
        [*GDO, "train", *words],
        cwd=work,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        time.sleep(0.01)
        logs = work.glob("results/runs/tiny/scitail/g_freeze-*/seed7/metrics.jsonl")
        if any(log.read_text().count('"train"') >= 3 for log in logs):
            process.send_signal(signal.SIGTERM)
            process.wait()
    run(*GDO, "train", *words, cwd=work)


def measured(work: Path) -> Iterator[tuple[str, Any]]:
    """What there is to compare of every run."""
    for file in sorted(work.glob("results/runs/*/*/*/seed*/result.json")):
        folder = file.parent
        name = str(folder.relative_to(work / "results/runs"))
        yield f"{name}/result", lasting(json.loads(file.read_text()))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        yield f"{name}/metrics", [lasting(line) for line in lines]
        yield f"{name}/predictions", checksum(folder / "predictions.jsonl.gz")
        for weights in sorted(folder.glob("*/*.safetensors")):
            yield f"{name}/{weights.relative_to(folder)}", checksum(weights)


def lasting(value: Any) -> Any:
    """A record without what passes."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in PASSING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def commands(work: Path) -> Iterator[tuple[str, Any]]:
    """What the commands on finished runs say and keep."""
    title = next((work / "results/runs/tiny/scitail").glob("g_freeze-*/seed9")).parent.name + "/seed9"
    yield "evaluate", run(*GDO, "evaluate", title, "--probe", "lambada", "--task", "--items", "8", cwd=work)
    yield "generate", run(*GDO, "generate", title, "Premise: Water boils.", "Hello", cwd=work)
    for form in ("grown", "averaged"):
        yield f"export {form}", run(*GDO, "export", title, f"out-{form}", "--form", form, cwd=work)
        yield f"exported {form}", checksum(work / f"out-{form}" / "model.safetensors")
    small = ["--shots", "2", "--prompts", "4", "--effect-prompts", "3", "--heads", "3"]
    run(*GDO, "analyze", "fv", title, *small, cwd=work)
    run(*GDO, "analyze", "drift", title, "--prompts", "8", "--items", "4", "--shots", "1", cwd=work)
    run(*GDO, "analyze", "steer", title, "--layer", "1", "--prompts", "4", cwd=work)
    for file in sorted(work.glob("results/runs/*/*/*/seed9/analysis/*.json")):
        yield f"analysis {file.name}", lasting(json.loads(file.read_text()))
    yield "ls", run(*GDO, "ls", "--mean", "--csv", "ls.csv", cwd=work) and "ls.csv written"
    rows = (work / "ls.csv").read_text().splitlines()
    yield "ls.csv", [row.rpartition(",")[0] for row in rows]  # the last column is minutes
    names = [f.parent.name for f in sorted((work / "results/runs/tiny/scitail").glob("*/seed0"))][:3]
    yield "compare", run(*GDO, "compare", *names, "--md", "compare.md", cwd=work)


def published(work: Path) -> Iterator[tuple[str, Any]]:
    """Figures and report of the committed runs, drawn again on a copy."""
    copy = work / "published"
    shutil.copytree(ROOT / "results", copy, ignore=shutil.ignore_patterns("adapter", "trained", "sweeps"))
    for file in (copy / "figures").iterdir():
        file.unlink()
    yield "plot", run(*GDO, "plot", "--results", str(copy), cwd=ROOT).replace(str(copy), "results")
    run(sys.executable, "-m", "study", "--results", str(copy), cwd=ROOT)
    for file in [*sorted((copy / "figures").iterdir()), copy / "README.md", copy / "report.html"]:
        yield f"results/{file.relative_to(copy)}", checksum(file)


def checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def collect() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        work = Path(folder)
        tiny_runs(work)
        found = dict(measured(work)) | dict(commands(work)) | dict(published(work))
    return json.loads(json.dumps(found).replace(folder, "WORK"))  # type: ignore[no-any-return]


def main(action: str, file: Path) -> None:
    found = collect()
    if action == "record":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{len(found)} entries in {file}")
        return
    before = json.loads(file.read_text())
    other = [key for key in {**before, **found} if before.get(key) != found.get(key)]
    for key in other:
        told = "is new" if key not in before else "is gone" if key not in found else "differs"
        print(f"{key} {told}")
    print(f"{len(found)} entries, {len(other)} not as recorded")
    (file.parent / "golden-now.json").write_text(json.dumps(found, indent=1) + "\n")
    if other:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
