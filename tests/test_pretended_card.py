"""Claims about a GPU, on a pretended one (card/): whole runs work on it, and a slip of each kind is found."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RUN

CARD = Path(__file__).parent / "card"
TORCH = Path(torch.__file__).parent
# Times that the processor waits for the card in one step, at most. Fewer is faster: lower it then.
WAITS_PER_STEP = 5

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's linker"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("card") / "libcard.so"
    paths = [f"-I{TORCH}/include", f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib"]
    words = ["g++", "-shared", "-fPIC", "-std=c++20", str(CARD / "card.cpp"), *paths]
    subprocess.run([*words, "-Wl,--no-as-needed", "-ltorch_cpu", "-lc10", "-o", str(made)], check=True)
    return made


def on_card(library: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CARD / "pretended.py"), str(library), *TINY_RUN, f"results_dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *words], capture_output=True, text=True, env=environment, check=False)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-2000:]
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def test_a_run_works_on_the_card_and_seldom_waits_for_it(library: Path, tmp_path: Path) -> None:
    found = told(on_card(library, tmp_path, "method=g_freeze"))
    assert found["device"] == "cuda"
    assert found["loss"] > 0
    assert found["steps"][0] <= WAITS_PER_STEP


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["method=sft", "train.checkpoint_every=2", "train.gradient_checkpointing=true"],
        ["method=kl_to_base"],
        ["method=lora", "train.precision=bf16"],
        ["method=sft", "task=multi30k"],
        ["method=zero_init", "train.token_budget=128"],
    ],
    ids=" ".join,
)
def test_other_runs_work_on_the_card(words: list[str], library: Path, tmp_path: Path) -> None:
    assert told(on_card(library, tmp_path, *words))["device"] == "cuda"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["to", "cpu", "device"])
def test_a_slip_is_found(fault: str, library: Path, tmp_path: Path) -> None:
    done = on_card(library, tmp_path, "method=sft", "train.checkpoint_every=2", f"fault={fault}")
    assert done.returncode != 0
    assert not list(tmp_path.rglob("result.json"))
