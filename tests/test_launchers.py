"""Claims about sweeps under Hydra's launchers and its Optuna sweeper, each where its plugin is installed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RUN, recorded
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.sweep import run as sweep
from gdo_cli.config.run_config import RunConfig
from gdo_cli.runs.find import find_runs
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import RunFailed

PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}


def require_plugin(name: str) -> None:
    pytest.importorskip(
        f"hydra_plugins.hydra_{name}", reason=f"pip install 'gdo-cli[{name.partition('_')[0]}]'"
    )


def gdo(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A sweep in a process of its own, started in the folder."""
    command = [sys.executable, "-m", "gdo_cli", "sweep", *TINY_RUN, *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GDO_DATA")}
    # Ray's workers are nice to others by default, which on a busy machine is for ever.
    settings = {"COLUMNS": "200", "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    paths = os.pathsep.join([str(Path(sweep.__file__).parent.parent), kept.get("PYTHONPATH", "")])
    environment = kept | settings | {"PYTHONPATH": paths} | variables
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=600)


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The words that choose a launcher; for Ray, of a cluster that lives as long as the test."""
    require_plugin(f"{PLUGINS[request.param]}_launcher")
    words = [f"hydra/launcher={request.param}"]
    if request.param == "joblib":
        yield [*words, "hydra.launcher.n_jobs=2"]
    elif request.param == "submitit_local":
        yield [*words, "hydra.launcher.timeout_min=10"]
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        folder = tmp_path_factory.mktemp("r")
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
        options = ["--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}"]
        settings = {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
        cluster = subprocess.Popen(
            [*command, *options], env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            _await_port(port, cluster)
            yield [*words, f"hydra.launcher.ray.init.address='127.0.0.1:{port}'"]
        finally:
            cluster.terminate()
            cluster.communicate(timeout=60)


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, process.communicate()[0]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the cluster does not answer")


@pytest.mark.slow
@pytest.mark.parametrize("engine", PLUGINS, indirect=True)
def test_a_launcher_runs_every_point_reports_the_one_that_fails_and_repeats_none(
    engine: list[str], tmp_path: Path
) -> None:
    """The pilot that both need comes first; the point that is impossible to train stops no other."""
    grid = ["method=g_freeze", "layers=1", "train.steps=2", "train.lr=1e-3,1e30", *engine]
    first = gdo(tmp_path, *grid)
    assert first.returncode == 1, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0] == "2 points, 0 of them done already"
    table = lines[lines.index("1 of 2 points done") + 2 :]
    assert table[0].startswith("train.lr=1e+30")
    assert "is nan" in table[0] or "not finite" in table[0]
    runs = find_runs(tmp_path / "results")
    assert sorted(run.name["method"] for run in runs) == ["g_freeze", "sft"]
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    logs = ["sweeps"] if "submitit" in engine[0] else []
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["runs", *logs]
    stamps = [(run.path / "result.json").stat().st_mtime_ns for run in runs]
    again = gdo(tmp_path, *grid, "--dry-run")
    assert again.stdout.splitlines()[0] == "2 points, 1 of them done already"
    assert [(run.path / "result.json").stat().st_mtime_ns for run in runs] == stamps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Optuna that the plugin asks for
def test_optuna_finds_the_best_task_score_and_the_same_command_tries_the_same_points(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The score on validation items peaks at a rate of 1e-3 with two layers, the one on test items has its
    lowest point there; the point that fails is one of the trials."""
    require_plugin("optuna_sweeper")
    rates: list[float] = []

    def run(config: RunConfig) -> RunResult:
        folder = RunFolder(config.path)
        rates.append(config.train.lr)
        if (found := folder.load()) is not None:
            return found
        if len(rates) == 2:
            raise RunFailed("lost")
        score = 1 / (1 + abs(1e3 * config.train.lr - 1)) + (config.layers == 2)
        with folder.lock():
            folder.start({})
            folder.log({"kind": "evaluation", "step": 0, "task/exact_match": 9.0})
            folder.log({"kind": "evaluation", "step": 4, "task/exact_match": score})
            record = {"id": config.id, "seed": config.seed, "name": config.name}
            return folder.seal(recorded(record | {"final": {"task/exact_match": -score}}))

    monkeypatch.setattr(sweep, "run", run)
    words = [*TINY_RUN, f"results_dir={tmp_path}", "method=g_freeze", "hydra/sweeper=optuna"]
    space = ["train.lr=tag(log, interval(1e-5, 1e-1))", "layers=1,2", "hydra.sweeper.n_trials=12"]

    def search() -> Any:
        return CliRunner().invoke(app, ["sweep", *words, *space], env={"COLUMNS": "200"})

    first = search()
    assert first.exit_code == 1, first.stderr
    assert first.stderr.count("lost") == 1
    scores = [line.split()[0] for line in first.stdout.splitlines()[2:]]
    assert len(scores) == len(rates) == 12
    assert scores[-1] == "failed"
    assert sorted(scores[:-1], key=float, reverse=True) == scores[:-1]
    best = max(-run.final["task/exact_match"] for run in find_runs(tmp_path))
    assert best == pytest.approx(float(scores[0]), abs=1e-4)
    tried = list(rates)
    assert search().exit_code == 0
    assert rates[12:14] == tried[:2]
