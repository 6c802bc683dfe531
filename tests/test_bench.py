"""Claims about the benchmark: its workers take a step when they are asked, and none before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.parametrize("name", ["gdo", "trl_lora", "naive_growth"])
def test_a_worker_takes_as_many_steps_as_it_is_asked_for(name: str, tmp_path: Path) -> None:
    words = ["model=tiny", "data=sample", "train.batch_size=2", "method=g_freeze"]
    words += ["train.compile=never"] if name == "gdo" else []
    done = subprocess.run(
        [sys.executable, "-m", "bench.workers", name, *words],
        input="step\nstep\n",
        env=os.environ | {"PYTHONPATH": str(SCRIPTS), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ready, first, second, end = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": name}
    assert 0 < first["seconds"] < 60
    assert 0 < second["seconds"] < 60
    assert end["peak"] > 1e7
