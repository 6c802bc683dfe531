"""SIGTERM and Ctrl-C end a run in order: a checkpoint, a message how to go on, the signal's exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RUN, RunFactory
from test_resume import STEPS, contents
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.checkpoints import Checkpoint
from gdo_cli.models.tiny import TinyModel
from gdo_cli.runs.folder import CHECKPOINT, RunFolder
from gdo_cli.support.signals import Stop, Stopped, stoppable


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """A shell that runs the tests in the background has Ctrl-C ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


BOTH = pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "SIGTERM"), pytest.param(signal.SIGINT, "Ctrl-C", marks=pytest.mark.faults)],
)
SELDOM = "train.checkpoint_every=100"  # no checkpoint but the one that the signal brings about


def signalled_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, number: int = signal.SIGTERM
) -> None:
    """Send this process a real signal at the given call of a function, before it does anything."""
    usual: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, call + 1))

    def with_signal(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) == call:
            os.kill(os.getpid(), number)
        return usual(*args, **kwargs)

    monkeypatch.setattr(owner, name, with_signal)


def stopped(config: RunConfig, owner: Any, name: str, call: int, number: int = signal.SIGTERM) -> Stopped:
    with pytest.MonkeyPatch.context() as patch:
        signalled_at(patch, owner, name, call, number)
        with pytest.raises(Stopped) as caught:
            experiment.run(config)
    return caught.value


def step_of_checkpoint(config: RunConfig) -> int:
    return int(Checkpoint.read(config.path / CHECKPOINT).step)


@BOTH
def test_a_signal_in_training_ends_the_run_after_its_step_with_a_checkpoint(
    tiny_run: RunFactory, number: int, name: str
) -> None:
    config = tiny_run(*STEPS, SELDOM)
    error = stopped(config, experiment._Run, "log", 2, number)
    assert error.code == 128 + number
    assert str(error) == (
        f"stopped by {name} training after step 2 of 6; the same command goes on from the last checkpoint"
    )
    assert step_of_checkpoint(config) == 2


@pytest.mark.parametrize("part", ["task", pytest.param("winogrande", marks=pytest.mark.faults)])
def test_a_signal_in_an_evaluation_keeps_what_was_trained(
    tiny_run: RunFactory, tmp_path: Path, part: str
) -> None:
    whole = experiment.run(tiny_run(*STEPS, SELDOM, results_dir=tmp_path / "whole"))
    config = tiny_run(*STEPS, SELDOM, results_dir=tmp_path / "stopped")
    # The evaluation of step 0 is the one of the run above, so this is that of step 3.
    calls = {"task": (Evaluator, "evaluate_task", 1), "winogrande": (Evaluator, "evaluate_probe", 1)}
    error = stopped(config, *calls[part])
    assert "evaluating after step 3 of 6" in str(error)
    assert step_of_checkpoint(config) == 3
    assert contents(experiment.run(config)) == contents(whole)


def test_a_signal_while_loading_ends_at_once_and_leaves_nothing_half_done(tiny_run: RunFactory) -> None:
    config = tiny_run(*STEPS)
    error = stopped(config, TinyModel, "load", 1)
    assert str(error) == "stopped by SIGTERM; the same command goes on where this one ended"
    assert [entry.name for entry in config.path.iterdir()] == [".lock"]


@pytest.mark.faults
def test_before_the_first_step_there_is_nothing_to_keep(tiny_run: RunFactory) -> None:
    error = stopped(tiny_run(*STEPS, "evaluation.items=7"), Evaluator, "evaluate_task", 1)
    assert "evaluating after step 0 of 6" in str(error)
    assert "the same command starts again (there is no checkpoint yet)" in str(error)


@pytest.mark.faults
def test_a_signal_while_the_result_is_written_comes_after_it(tiny_run: RunFactory) -> None:
    config = tiny_run(*STEPS)
    stopped(config, RunFolder, "seal", 1)
    assert RunFolder(config.path).load() is not None


@pytest.mark.faults
def test_what_handles_signals_itself_goes_on_to(tiny_run: RunFactory) -> None:
    """A launcher, such as submitit, that requeues its job."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with pytest.MonkeyPatch.context() as patch:
            signalled_at(patch, experiment._Run, "log", 2)
            experiment.run(tiny_run("train.steps=2"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_handlers_are_put_back() -> None:
    with stoppable():
        assert isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), Stop)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_run_in_another_thread_leaves_signals_alone() -> None:
    seen: list[Any] = []

    def look() -> None:
        with stoppable():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


# ------------------------------------------------------------------------------------ the command line


@BOTH
def test_the_exit_code_is_the_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    signalled_at(monkeypatch, experiment._Run, "log", 1, number)
    words = [*TINY_RUN, *STEPS, f"results_dir={tmp_path}"]
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code == 128 + number
    assert f"stopped by {name}" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_signal_ends_a_sweep_and_not_only_its_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled_at(monkeypatch, experiment._Run, "log", 1)
    words = [*TINY_RUN, *STEPS, f"results_dir={tmp_path}", "seed=0,1"]
    result = CliRunner().invoke(app, ["sweep", *words])
    assert result.exit_code == 143
    assert not list(tmp_path.glob("runs/*/*/*/seed1"))


TWICE = """
import os, signal, sys, time
from gdo_cli.config.build import load_run
from gdo_cli.experiment import run as experiment

def log(run, step):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

experiment._Run.log = log
experiment.run(load_run(sys.argv[1:]))
"""


@pytest.mark.faults
def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    words = [*TINY_RUN, *STEPS, f"results_dir={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", TWICE, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "Ctrl-C: ending after this step or batch (again: at once)" in done.stderr
