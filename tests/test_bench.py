"""Claims about the benchmark: its workers take a step when they are asked, and none before."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from bench.page import write_page

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def asked(name: str, words: list[str], steps: int, tmp_path: Path) -> list[dict[str, Any]]:
    """What a worker answers on the tiny model: that it is ready, its steps, its end."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.workers", name, "model=tiny", "data=sample", *words],
        input="step\n" * steps,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ready, *answers, end = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": name}
    assert end["peak"] > 1e7
    assert len(answers) == steps
    assert all(0 < answer["seconds"] < 60 for answer in answers)
    return answers


@pytest.mark.parametrize("name", ["gdo", "trl_lora", "naive_growth"])
def test_a_worker_takes_as_many_steps_as_it_is_asked_for(name: str, tmp_path: Path) -> None:
    words = ["train.batch_size=2", "method=g_freeze"]
    asked(name, words + (["train.compile=never"] if name == "gdo" else []), 2, tmp_path)


def test_operations_are_counted_of_examples_of_any_length(tmp_path: Path) -> None:
    words = ["train.batch_size=2", "method=g_freeze", "train.compile=never"]
    short, long = (
        asked("gdo_counted", [*words, f"bench.length={n}"], 1, tmp_path)[0]["flops"] for n in (20, 40)
    )
    assert 1.8 * short < long < 2.6 * short


def test_the_one_pass_answers_are_those_of_generation(tmp_path: Path) -> None:
    words = ["probe.winogrande.items=20", "probe.winogrande.shots=2"]
    fast, slow = (asked(name, words, 10, tmp_path) for name in ("gdo_exact", "generate"))
    assert [a["outcomes"] for a in fast] == [a["outcomes"] for a in slow]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval comes with the bench extra")
def test_likelihoods_choose_as_the_harness_does(tmp_path: Path) -> None:
    words = ["probe.winogrande.items=20", "train.precision=fp32"]
    fast, slow = (asked(name, words, 10, tmp_path) for name in ("gdo_likelihood", "lm_eval"))
    assert [a["outcomes"] for a in fast] == [a["outcomes"] for a in slow]
    assert {x for a in fast for x in a["outcomes"]} == {True, False}


def test_the_page_shows_what_there_is(tmp_path: Path) -> None:
    record = {
        "machine": {"cpu": "A processor", "cores": 2},
        "versions": {"torch": "2"},
        "code": {"commit": "0123456789"},
        "overrides": [],
        "rows": [
            {"axis": "grown layers", "value": n, "min": n, "median": n, "max": n, "peak_bytes": 2**30}
            for n in (1, 2)
        ],
    }
    (tmp_path / "scaling.json").write_text(json.dumps(record))
    record["rows"] = [{"work": "gdo --help", "min": 0.2, "median": 0.25, "max": 0.5}]
    (tmp_path / "start.json").write_text(json.dumps(record))
    write_page(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| grown layers | 2 | 2 | 1.0 |" in text
    assert "| gdo --help | 0.25 | 0.20 | 0.50 | < 0.3 |" in text
    assert "Training against peers" not in text
    assert (tmp_path / "scaling.png").stat().st_size > 1000
