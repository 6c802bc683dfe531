"""Claims about the benchmark: its workers take a step when they are asked, and none before."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from bench.page import write_page
from bench.workers import WORKERS

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
TINY = ["model=tiny", "data=sample"]
# TRL 1.16 turns on, by its old name, what transformers 5.23 calls activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Steps of a worker on the tiny model, in this process."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def take(name: str, words: list[str], steps: int) -> list[dict[str, Any]]:
        worker = WORKERS[name]([*TINY, *words])
        with closing(worker):  # type: ignore[type-var]
            assert next(worker) == {}
            answers = list(islice(worker, steps))
        assert all(0 < answer["seconds"] < 60 for answer in answers)
        return answers

    return take


@pytest.mark.slow
def test_a_process_takes_as_many_steps_as_it_is_asked_for(tmp_path: Path) -> None:
    words = ["train.batch_size=2", "method=g_freeze", "train.compile=never"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.workers", "gdo", *TINY, *words],
        input="step\n" * 2,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ready, *answers, end = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": "gdo"}
    assert [0 < answer["seconds"] < 60 for answer in answers] == [True] * 2
    assert end["peak"] > 1e7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trl_lora", "naive_growth"])
def test_a_peer_takes_a_step_when_it_is_asked_for_one_and_ends_when_it_is_let_go(
    taken: Callable[..., list[dict[str, Any]]], name: str
) -> None:
    assert len(taken(name, ["train.batch_size=2"], 2)) == 2
    assert "a peer's trainer" not in {thread.name for thread in threading.enumerate()}


def test_operations_are_counted_of_examples_of_any_length(
    taken: Callable[..., list[dict[str, Any]]],
) -> None:
    words = ["train.batch_size=2", "method=g_freeze", "train.compile=never"]
    short, long = (taken("gdo_counted", [*words, f"bench.length={n}"], 1)[0]["flops"] for n in (20, 40))
    assert 1.8 * short < long < 2.6 * short


@pytest.mark.slow
def test_the_one_pass_answers_are_those_of_generation(taken: Callable[..., list[dict[str, Any]]]) -> None:
    words = ["probe.winogrande.items=20", "probe.winogrande.shots=2"]
    fast, slow = (taken(name, words, 10) for name in ("gdo_exact", "generate"))
    assert [a["outcomes"] for a in fast] == [a["outcomes"] for a in slow]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval comes with the bench extra")
def test_likelihoods_choose_as_the_harness_does(taken: Callable[..., list[dict[str, Any]]]) -> None:
    words = ["probe.winogrande.items=20", "train.precision=fp32"]
    fast, slow = (taken(name, words, 10) for name in ("gdo_likelihood", "lm_eval"))
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
