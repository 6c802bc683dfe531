"""Claims about sweeps: checked first, resumed after an interruption, shared between processes."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RUN, recorded
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.sweep import run as sweep
from gdo_cli.commands.sweep.run import run_sweep
from gdo_cli.config.grid import Point, load_grid, load_sweep
from gdo_cli.config.options import PLUGGED
from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment import plan
from gdo_cli.methods.grow import GFreeze
from gdo_cli.runs.find import find_runs
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import ChosenLayers, RunResult
from gdo_cli.support.errors import RunFailed, UserError
from gdo_cli.training.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
GRID = ("method=sft,g_freeze", "train.steps=1", "evaluation.every=1")
Runs = list[str]


def words(results: Path, *more: str) -> list[str]:
    return [*TINY_RUN, f"results_dir={results}", *GRID, *more]


@pytest.fixture
def points(tmp_path: Path) -> list[Point]:
    """Two points: SFT, then G-Freeze."""
    return load_grid(words(tmp_path))


def go(results: Path, *more: str) -> bool:
    """The sweep of the two points, in this process."""
    return run_sweep(load_sweep(words(results, *more)))


def sealed(config: RunConfig, score: float = 0.5) -> RunResult:
    """Stands in for a run: takes its folder, computes nothing, ends."""
    folder = RunFolder(config.path)
    with folder.lock():
        folder.start({})
        record = {"id": config.id, "seed": config.seed, "name": config.name}
        return folder.seal(recorded(record | {"final": {"task/exact_match": score}}))


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
    assert "2 of 4 points are impossible" in result.stderr
    assert "train.lr=-1" in result.stderr
    assert find_runs(tmp_path) == []


# Words that make some points of the grid impossible: which, and why. The tiny model has four layers.
IMPOSSIBLE = [
    (["layers=[1]"], ["method=sft"], "method=sft takes no layers"),
    (
        ["method=g_freeze", "layers=[0],[0,4],[3]"],
        ["layers=[0,4]"],
        "no layer 4; the model has layers 0 to 3",
    ),
]


@pytest.mark.few(2)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("grid", "culprits", "reason"), IMPOSSIBLE)
def test_impossible_points_are_listed_and_nothing_starts_unless_they_are_skipped(
    ran: Runs, tmp_path: Path, grid: list[str], culprits: list[str], reason: str, skip: bool
) -> None:
    keys = {word.partition("=")[0] for word in grid}
    kept = [word for word in words(tmp_path) if word.partition("=")[0] not in keys]
    result = gdo(*kept, *grid, *(["--skip-invalid"] if skip else []))
    assert reason in result.stderr
    if skip:
        assert result.exit_code == 0, result.stderr
        assert [f"warning skipped {culprit}: " in result.stderr for culprit in culprits] == [True]
        assert ran == ["g_freeze"] * len(ran)
        assert len(ran) == len(find_runs(tmp_path)) > 0
    else:
        assert (result.exit_code, ran) == (2, [])
        assert "--skip-invalid" in result.stderr
        assert [line.strip() for line in result.stderr.splitlines()[1:-1]] == culprits


def test_a_method_that_cannot_change_the_model_is_found_before_anything_is_loaded(
    ran: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(*_: object) -> None:
        raise ValueError("no MLP in it")

    monkeypatch.setattr(GFreeze, "prepare", prepare)
    monkeypatch.setattr(plan, "_ANSWERS", {})
    result = gdo(*words(tmp_path))
    assert (result.exit_code, ran) == (2, [])
    assert "method=g_freeze: no MLP in it" in result.stderr


def test_a_mistake_that_spoils_every_point_is_told_once(ran: Runs, tmp_path: Path) -> None:
    result = gdo(*words(tmp_path, "train.lrr=1"))
    assert (result.exit_code, ran) == (2, [])
    assert (
        result.stderr
        == "error: train.lrr: no such key; did you mean 'lr'? choose from: "
        + ", ".join(sorted(field.name for field in fields(TrainConfig)))
        + "\n"
    )


def test_nothing_is_left_to_run_if_every_point_is_impossible(ran: Runs, tmp_path: Path) -> None:
    result = gdo(*words(tmp_path, "layers=[7],[8]"), "--skip-invalid")
    assert (result.exit_code, ran) == (2, [])
    assert "4 of 4 points are impossible:" in result.stderr


def test_data_that_are_nowhere_are_told_before_anything_runs(
    ran: Runs, points: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GDO_DATA_DIR", raising=False)
    for where, told in (([], "set GDO_DATA_DIR"), ([f"data.dir={tmp_path / 'x'}"], "no such folder")):
        result = gdo(*words(tmp_path, "data=local", *where))
        assert (result.exit_code, ran) == (2, [])
        assert told in result.stderr
    assert not any(config.path.exists() for _, config in points)


def test_a_dry_run_says_which_points_are_done_and_runs_none(
    ran: Runs, points: list[Point], tmp_path: Path
) -> None:
    sealed(points[0][1])
    result = gdo(*words(tmp_path), "--dry-run")
    assert (result.exit_code, ran) == (0, [])
    first, _, *rest = result.stdout.splitlines()
    assert first == "2 points, 1 of them done already"
    done, still_open = (line.split() for line in rest[:2])
    assert done == ["done", points[0][1].id, "method=sft"]
    assert (still_open[:2], still_open[-1]) == (["open", points[1][1].id], "method=g_freeze")


# ------------------------------------------------------------------------------------------- the points


def test_every_point_runs_once_in_the_order_of_the_grid(ran: Runs, tmp_path: Path) -> None:
    assert go(tmp_path)
    assert ran == ["sft", "g_freeze"]


def test_finished_points_are_not_run_again(
    ran: Runs, points: list[Point], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed(points[0][1])
    assert go(tmp_path)
    assert ran == ["g_freeze"]
    assert go(tmp_path)
    assert ran == ["g_freeze"]
    assert "2 points, 2 of them done already" in capsys.readouterr().out


@pytest.mark.few(1)
@pytest.mark.parametrize("error", [RunFailed("the loss is nan"), UserError("no rows"), KeyError("a bug")])
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
    at_once = [line for line in result.stderr.splitlines() if line.startswith("failed")]
    assert len(at_once) == 1
    assert at_once[0].startswith("failed method=sft: ")
    assert str(error) in at_once[0]
    counted, heading, *table = result.stdout.splitlines()[1:]
    assert (counted, heading.split()) == ("1 of 2 points done", ["failed", "why"])
    assert [line.split()[0] for line in table] == ["method=sft"]
    assert str(error) in table[0]
    assert [found.name["method"] for found in find_runs(tmp_path)] == ["g_freeze"]


def test_an_interrupted_sweep_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(config: RunConfig) -> RunResult:
        if config.name["method"] == "g_freeze":
            raise KeyboardInterrupt
        return sealed(config)

    with monkeypatch.context() as patch:
        replace_run(patch, run)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path)
    ran = replace_run(monkeypatch, sealed)
    assert go(tmp_path)
    assert ran == ["g_freeze"]


def test_a_point_that_another_process_works_on_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, ran: Runs, points: list[Point], tmp_path: Path
) -> None:
    """The other process holds the first point, and has finished it when this one has slept twice."""
    other = RunFolder(points[0][1].path)
    lock = other.lock()
    lock.__enter__()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            lock.__exit__(None, None, None)
            sealed(points[0][1])

    monkeypatch.setattr("time.sleep", sleep)
    assert go(tmp_path)
    assert ran == ["sft", "g_freeze"]  # tried, and passed over for the next one
    assert len(slept) == 2


def test_a_point_that_another_process_gives_up_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, ran: Runs, points: list[Point], tmp_path: Path
) -> None:
    lock = RunFolder(points[0][1].path).lock()
    lock.__enter__()
    monkeypatch.setattr("time.sleep", lambda _: lock.__exit__(None, None, None))
    assert go(tmp_path)
    assert ran == ["sft", "g_freeze", "sft"]
    assert len(find_runs(tmp_path)) == 2


# --------------------------------------------------------------------------------------------- layers


def test_the_pilot_runs_once_before_the_points_that_need_it(ran: Runs, tmp_path: Path) -> None:
    (grid,) = ([w for w in words(tmp_path) if not w.startswith("method=")],)
    result = gdo(*grid, "method=g_freeze,g_train", "layers=1,2,9")
    assert result.exit_code == 0, result.stderr
    assert ran == ["sft", "g_freeze", "g_train", "g_freeze", "g_freeze", "g_train", "g_train"]
    assert "pilot runs of SFT: scitail/sft-" in result.stderr
    assert "layers=9: tiny has 4 layers, so all of them" in result.stderr


def test_points_whose_pilot_fails_are_not_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(config: RunConfig) -> RunResult:
        if config.name["method"] == "sft":
            raise RunFailed("the loss is nan")
        return sealed(config)

    ran = replace_run(monkeypatch, run)
    grid = [word for word in words(tmp_path) if not word.startswith("method=")]
    result = gdo(*grid, "method=g_freeze", "layers=1,2,all")
    assert (result.exit_code, ran) == (1, ["sft", "g_freeze"])
    table = result.stdout.splitlines()[3:]
    assert [line.split()[0] for line in table] == ["pilot", "layers=1", "layers=2"]
    assert "its pilot: the loss is nan" in table[1]


def test_a_number_of_layers_above_the_depth_means_all_and_both_are_recorded(tmp_path: Path) -> None:
    grid = [word for word in words(tmp_path) if not word.startswith("method=")]
    assert gdo(*grid, "method=g_freeze", "layers=9").exit_code == 0
    (run,) = find_runs(tmp_path)
    assert run.record.layers == ChosenLayers(9, chosen="all", depth=4)


# -------------------------------------------------------------------------------------------- the engine


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hydra/launcher=joblb", "no such option; did you mean 'joblib'? choose from: basic, joblib, ray"),
        ("hydra/launcher=basic,joblib", "several values; only settings of runs can be swept"),
        ("hydra.launcher.n_jobz=2", "hydra.launcher.n_jobz"),
        ("train.lr=interval(1e-5,1e-3)", "an interval is searched, with hydra/sweeper=optuna"),
    ],
)
def test_a_mistake_about_the_launcher_is_one_line(ran: Runs, tmp_path: Path, word: str, message: str) -> None:
    result = gdo(*words(tmp_path), word)
    assert (result.exit_code, ran) == (2, [])
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def installed(requirement: str) -> bool:
    name = re.split("[<>=]", requirement)[0].replace("-", "_")
    return find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{name}") is not None


@pytest.mark.parametrize(("group", "options"), PLUGGED.items())
def test_a_plugin_that_is_missing_is_named_with_the_extra_that_brings_it(
    ran: Runs, tmp_path: Path, group: str, options: dict[str, str]
) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for option, extra in options.items():
        (requirement,) = extras[extra]
        if find_spec("hydra_plugins") and find_spec(
            f"hydra_plugins.{re.split('[<>=]', requirement)[0].replace('-', '_')}"
        ):
            continue  # installed here
        result = gdo(*words(tmp_path), f"{group}={option}")
        assert (result.exit_code, ran) == (2, [])
        assert result.stderr == (
            f"error: {group}={option}: its plugin is not installed: pip install 'gdo-cli[{extra}]'\n"
        )


@pytest.mark.usefixtures("ran")
def test_a_sweep_leaves_nothing_of_hydras_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert gdo(*words(Path("results"))).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["runs"]


@pytest.mark.slow
def test_parameters_of_hydras_sweeper_are_swept_too(tmp_path: Path) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    text = "# @package _global_\nhydra: {sweeper: {params: {seed: '3,4', train.lr: 1e-3}}}\n"
    (own / "mine.yaml").write_text(text)
    result = gdo(*words(tmp_path, "experiment=mine", "--config-dir", str(own.parent)), "--dry-run")
    assert "4 points" in result.stdout, result.stderr
    assert "method=g_freeze seed=4" in result.stdout


@pytest.mark.usefixtures("ran")
def test_an_odd_name_of_the_results_folder_does_no_harm(tmp_path: Path) -> None:
    odd = tmp_path / "my 'résultats' $x"
    named = [w for w in words(tmp_path) if not w.startswith("results_dir=")]
    result = CliRunner().invoke(app, ["sweep", *named], env={"COLUMNS": "400", "GDO_RESULTS_DIR": str(odd)})
    assert result.exit_code == 0, result.stderr
    assert len(find_runs(odd)) == 2


# ------------------------------------------------------------------------------------------- real runs


def test_a_real_sweep_leaves_a_run_for_every_point_and_repeats_none(
    tmp_path: Path,
) -> None:
    assert go(tmp_path)
    first = find_runs(tmp_path)
    assert sorted(run.name["method"] for run in first) == ["g_freeze", "sft"]
    stamps = [(run.path / "result.json").stat().st_mtime_ns for run in first]
    assert go(tmp_path)
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
