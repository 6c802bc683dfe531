"""Claims about sweeps: checked first, resumed after an interruption, shared between processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RUN
from typer.testing import CliRunner

from gdo_cli import sweep
from gdo_cli.cli import app
from gdo_cli.errors import RunFailed, UserError
from gdo_cli.grid import load_grid
from gdo_cli.results import RunFolder, RunResult, find_runs
from gdo_cli.schema import RunConfig
from gdo_cli.sweep import Point, run_points

GRID = ("method=sft,g_freeze", "train.steps=1", "evaluation.every=1")
Runs = list[str]


def words(results: Path, *more: str) -> list[str]:
    return [*TINY_RUN, f"results_dir={results}", *GRID, *more]


@pytest.fixture
def points(tmp_path: Path) -> list[Point]:
    """Two points: SFT, then G-Freeze."""
    return load_grid(words(tmp_path))


def sealed(config: RunConfig) -> RunResult:
    """Stands in for a run: takes its folder, computes nothing, ends."""
    folder = RunFolder(config)
    with folder.lock():
        folder.start()
        record = {"id": config.id, "seed": config.seed, "name": config.name, "final": {}}
        return folder.seal(record)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The methods whose run was asked for, in order; each run ends at once."""
    return replace_run(monkeypatch, sealed)


def replace_run(monkeypatch: pytest.MonkeyPatch, run: Callable[[RunConfig], RunResult]) -> Runs:
    asked: Runs = []

    def noted(config: RunConfig) -> RunResult:
        asked.append(config.name["method"])
        return run(config)

    monkeypatch.setattr(sweep, "run", noted)
    return asked


def gdo(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["sweep", *arguments], env={"COLUMNS": "400"})


# ------------------------------------------------------------------------------------ before it starts


def test_all_points_are_checked_before_the_first_runs(ran: Runs, tmp_path: Path) -> None:
    result = gdo(*words(tmp_path, "train.lr=1e-3,-1"))
    assert (result.exit_code, ran) == (2, [])
    assert "train.lr=-1" in result.stderr
    assert find_runs(tmp_path) == []


def test_a_dry_run_says_which_points_are_done_and_runs_none(
    ran: Runs, points: list[Point], tmp_path: Path
) -> None:
    sealed(points[0][1])
    result = gdo(*words(tmp_path), "--dry-run")
    assert (result.exit_code, ran) == (0, [])
    first, *rest = result.stdout.splitlines()
    assert first == "2 points, 1 of them done already"
    assert [line.split()[:2] for line in rest] == [["done", points[0][1].id], ["open", points[1][1].id]]


# ------------------------------------------------------------------------------------------- the points


def test_every_point_runs_once_in_the_order_of_the_grid(ran: Runs, points: list[Point]) -> None:
    assert run_points(points)
    assert ran == ["sft", "g_freeze"]


def test_finished_points_are_not_run_again(
    ran: Runs, points: list[Point], capsys: pytest.CaptureFixture[str]
) -> None:
    sealed(points[0][1])
    assert run_points(points)
    assert ran == ["g_freeze"]
    assert run_points(points)
    assert ran == ["g_freeze"]
    assert "2 points, 2 of them done already" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RunFailed("the loss is nan"), UserError("no rows")])
def test_a_point_that_fails_is_reported_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def run(config: RunConfig) -> RunResult:
        if config.name["method"] == "sft":
            raise error
        return sealed(config)

    ran = replace_run(monkeypatch, run)
    result = gdo(*words(tmp_path))
    assert (result.exit_code, ran) == (1, ["sft", "g_freeze"])
    failed = [line for line in result.stdout.splitlines() if line.startswith("failed")]
    assert len(failed) == 1
    assert "method=sft" in failed[0]
    assert str(error) in failed[0]
    assert [found.name["method"] for found in find_runs(tmp_path)] == ["g_freeze"]


def test_an_interrupted_sweep_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, points: list[Point]
) -> None:
    def run(config: RunConfig) -> RunResult:
        if config.name["method"] == "g_freeze":
            raise KeyboardInterrupt
        return sealed(config)

    with monkeypatch.context() as patch:
        replace_run(patch, run)
        with pytest.raises(KeyboardInterrupt):
            run_points(points)
    ran = replace_run(monkeypatch, sealed)
    assert run_points(points)
    assert ran == ["g_freeze"]


def test_a_point_that_another_process_works_on_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, ran: Runs, points: list[Point]
) -> None:
    """The other process holds the first point, and has finished it when this one has slept."""
    other = RunFolder(points[0][1])
    lock = other.lock()
    lock.__enter__()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            lock.__exit__(None, None, None)
            sealed(points[0][1])

    monkeypatch.setattr("time.sleep", sleep)
    assert run_points(points)
    assert ran[:2] == ["sft", "g_freeze"]  # tried, and passed over for the next one
    assert set(ran[2:]) == {"sft"}
    assert len(slept) == 2


# ------------------------------------------------------------------------------------------- real runs


def test_a_real_sweep_leaves_a_run_for_every_point_and_repeats_none(
    points: list[Point], tmp_path: Path
) -> None:
    assert run_points(points)
    first = find_runs(tmp_path)
    assert sorted(run.name["method"] for run in first) == ["g_freeze", "sft"]
    stamps = [(run.path / "result.json").stat().st_mtime_ns for run in first]
    assert run_points(points)
    assert [(run.path / "result.json").stat().st_mtime_ns for run in first] == stamps
    base = [run.evaluations[0] for run in first]
    assert base[0] == base[1]


@pytest.mark.slow
def test_two_processes_share_a_grid(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gdo_cli", "sweep", *words(tmp_path, "seed=0,1")]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(find_runs(tmp_path)) == 4
    # Each run says its final scores once, in the process that made it.
    final = [line for text in said for line in text.splitlines() if line.split()[:1] == ["final"]]
    assert len(final) == 4
