"""Claims about ``gdo init``: what it writes runs as it is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.config.build import load_run
from gdo_cli.config.tune import Tuning
from gdo_cli.experiment.reopen import read_run_data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "own"])
    assert done.exit_code == 0, done.output
    return Path("own")


def test_its_commands_compose_and_its_rows_are_read(folder: Path) -> None:
    lines = [line.strip() for line in (folder / "README.md").read_text().splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("gdo ") and "RUN" not in line]
    assert [words[1] for words in commands] == ["train", "train", "tune"]
    for words in commands[:2]:
        config = load_run([*words[4:], "data=sample"], folder)
        assert (config.name["task"], list(config.probe)) == ("mine", ["support"])
        assert [p.measure for p in config.keep.promises(config.probe)] == ["support/likelihood"]
        data = read_run_data(config)
        assert (len(data.train), len(data.validation), len(data.test)) == (28, 4, 4)
        assert data.train[0].prompt == "Ticket: I was charged twice this month (1)\nTeam:"
        assert len(data.probes["support"][0]) == 4
    assert Tuning(commands[2][4:], folder).config.trials == 12


def test_what_is_there_already_is_not_touched(folder: Path) -> None:
    (folder / "task" / "mine.yaml").write_text("mine")
    done = CliRunner().invoke(app, ["init", str(folder)])
    assert done.exit_code == 2
    assert "is there already" in done.stderr
    assert (folder / "task" / "mine.yaml").read_text() == "mine"


def test_a_name_that_yaml_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "a: b")])
    assert done.exit_code == 2
