"""A finished run is opened again as it was: its own settings, its own rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import TINY_RUN
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.config.build import load_run, rebuild
from gdo_cli.data.rows import SAMPLE_DIR
from gdo_cli.experiment.run import run
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError

OWN = ("data=local", "method=sft", "train.steps=1", "evaluation.every=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets, as a user has one."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("scitail", "winogrande"):
        shutil.copytree(SAMPLE_DIR / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    results = tmp_path_factory.mktemp("results")
    splits = "task.dataset.splits={train: train, validation: validation, test: test}"
    return run(load_run([*TINY_RUN, *OWN, splits, f"data.dir={folder}", f"results_dir={results}"]))


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Path:
    """The same data sets, but for a row of SciTail's test items that was dropped."""
    target = tmp_path / "changed"
    shutil.copytree(folder, target)
    file = target / "scitail" / "test.jsonl"
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[1:]), "utf-8")
    return target


def gdo(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stderr


def results_of(finished: RunResult) -> str:
    return str(finished.path.parents[4])


@pytest.mark.parametrize("command", [("evaluate",), ("analyze", "fv")], ids=" ".join)
def test_a_command_refuses_rows_that_are_not_those_of_the_run(
    finished: RunResult, changed: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("GDO_DATA_DIR", str(changed))
    code, said = gdo(*command, finished.title, "--results", results_of(finished))
    assert code == 2
    for words in (finished.title, "test rows", "data.dir=", "data="):
        assert words in said


def test_an_override_that_names_no_other_data_excuses_no_other_rows(
    finished: RunResult, changed: Path
) -> None:
    words = ("evaluate", finished.title, f"data.dir={changed}", "probe.winogrande.items=2")
    code, said = gdo(*words, "--results", results_of(finished))
    assert (code, "test rows" in said) == (2, True)


@pytest.mark.slow
def test_the_runs_own_rows_are_taken_from_wherever_they_lie(
    finished: RunResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GDO_DATA_DIR", raising=False)
    moved = shutil.copytree(folder, tmp_path / "moved")
    words = ("evaluate", finished.title, f"data.dir={moved}", "--results", results_of(finished))
    assert gdo(*words)[0] == 0


def test_an_interpolation_is_not_measured_on_other_rows_than_its_run(
    finished: RunResult, changed: Path
) -> None:
    words = ["method=wise_ft", f"method.run={finished.title}", "data=local", f"data.dir={changed}"]
    with pytest.raises(UserError, match="test rows"):
        run(load_run([*TINY_RUN, *words, f"results_dir={results_of(finished)}"]))


def test_what_the_files_say_by_now_does_not_change_a_run(finished: RunResult, tmp_path: Path) -> None:
    """Options of the user's own that have the names of those it was made with win over the bundled ones."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method/sft.yaml").write_text("_target_: gdo_cli.methods.partial.Frozen\n")
    (tmp_path / "task").mkdir()
    (tmp_path / "task/scitail.yaml").write_text("_target_: gdo_cli.tasks.scitail.Nothing\n")
    assert rebuild(finished, tmp_path).id == finished.id
    assert type(rebuild(finished, tmp_path).method).__name__ == "SFT"


def test_an_override_wins_over_the_record(finished: RunResult) -> None:
    words = ["train.precision=fp32", "probe.winogrande.items=3", "evaluation.items=2"]
    config = rebuild(finished, None, words)
    assert (config.train.precision, config.evaluation.items) == ("fp32", 2)
    assert (config.probe["winogrande"].items, config.probe["winogrande"].shots) == (3, 1)
    assert config.train.steps == 1
