"""Claims about ``gdo ls``: what is let through, grouped and averaged, whatever has become of the runs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import recorded
from scipy import stats
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.ls import interval, listed
from gdo_cli.runs.folder import RunFolder
from gdo_cli.support.errors import UserError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a run folder: ``make(method="sft", seed=1, score=0.5)``, or one that is not done."""

    def write(
        method: str = "sft",
        seed: int = 0,
        score: float | None = None,
        *,
        task: str = "qasc",
        layers: Any = "all",
        lr: float = 1e-4,
        metric: str = "task/exact_match",
        failed: str | None = None,
    ) -> Path:
        name = {"model": "tiny", "task": task, "method": method}
        config = {"seed": seed, "layers": layers, "train": {"lr": lr}, "data": {"source": "sample"}}
        run_id = f"{abs(hash((method, str(layers), lr))):08x}"[:8]
        folder = tmp_path / "runs" / "tiny" / task / f"{method}-{run_id}" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({"name": name} | config))
        if failed is not None:
            (folder / "failed.json").write_text(json.dumps({"error": failed, "time": 0}))
        if score is not None:
            record = {"id": run_id, "seed": seed, "name": name, "config": config, "wall_seconds": 90.0}
            record |= {"final": {metric: score, "winogrande/exact_match": score / 2, "kl/answer": 0.25}}
            record |= {"data": {"source": "sample"}, "parameters": {"trainable_share": 0.5}}
            (folder / "result.json").write_text(json.dumps(recorded(record).to_dict()))
        return folder

    return write


@pytest.fixture
def several(make: Make) -> None:
    """Three seeds of SFT, G-Freeze on 1, 2 and [0, 3] layers, one translation, and what is not done."""
    for seed, score in enumerate((0.5, 0.7, 0.6)):
        make("sft", seed, score)
    for layers, score in ((1, 0.4), (2, 0.8), ([0, 3], 0.9)):
        make("g_freeze", 0, score, layers=layers)
    make("sft", 0, 30.0, task="mtnt", metric="task/bleu")
    make("g_train", 0, failed="step 3: the loss is nan")
    make("g_train", 1)


def ls(results: Path, *words: str, code: int = 0) -> list[list[str]]:
    """The lines of the table without its heading, in words."""
    result = CliRunner().invoke(app, ["ls", "--results", str(results), *words], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.stderr
    return [line.split() for line in (result.stdout or result.stderr).splitlines()[0 if code else 1 :]]


def test_a_folder_or_a_measure_that_is_not_there_is_refused(make: Make, tmp_path: Path) -> None:
    (told,) = ls(tmp_path / "nowhere", code=2)
    assert told[-3:] == ["no", "such", "folder"]
    make("sft", score=0.5)
    (told,) = ls(tmp_path, "--metric", "winogrande/exactmatch", code=2)
    assert " ".join(told).startswith("error: --metric winogrande/exactmatch: no run has it; did you mean")


# --------------------------------------------------------------------------------------------- filters


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("filters", "titles"),
    [
        (["method=sft", "task=qasc", "seed=1,2"], ["qasc/sft/seed1", "qasc/sft/seed2"]),
        (["task=m*"], ["mtnt/sft/seed0"]),
        (["layers=[0,3]"], ["qasc/g_freeze/seed0"]),
        (["layers=1,2"], ["qasc/g_freeze/seed0", "qasc/g_freeze/seed0"]),
        (["train.lr=0.0001", "method=g_*", "layers=2"], ["qasc/g_freeze/seed0"]),
        (["status=failed"], ["qasc/g_train/seed0"]),
        (["status=unfinished,failed"], ["qasc/g_train/seed0", "qasc/g_train/seed1"]),
        (["model=other"], []),
    ],
)
def test_filters_let_through_what_they_name(tmp_path: Path, filters: list[str], titles: list[str]) -> None:
    runs, _ = listed(tmp_path, filters)
    shown = ["/".join([run.path.parts[-3], run.name["method"], run.path.parts[-1]]) for run in runs]
    assert shown == titles


@pytest.mark.usefixtures("several")
def test_runs_that_are_not_done_are_counted_below_the_others(tmp_path: Path) -> None:
    lines = ls(tmp_path)
    assert len(lines) == 7 + 1
    assert " ".join(lines[-1]) == "besides: 1 failed, 1 unfinished (gdo ls status=failed,unfinished)"


@pytest.mark.usefixtures("several")
def test_a_failed_run_is_shown_with_the_reason(tmp_path: Path) -> None:
    told = " ".join(word for line in ls(tmp_path, "status=failed,unfinished") for word in line)
    assert "failed step 3: the loss is nan" in told
    assert told.endswith("unfinished")


def test_a_run_that_a_process_holds_is_running(make: Make, tmp_path: Path) -> None:
    folder = make("sft", failed="the last time")
    with RunFolder(folder).lock():
        assert [run.status for run in listed(tmp_path, ["status=*"])[0]] == ["running"]
    assert [run.status for run in listed(tmp_path, ["status=*"])[0]] == ["failed"]


def test_a_result_that_cannot_be_read_hides_no_other(make: Make, tmp_path: Path) -> None:
    make("sft", 0, 0.5)
    (make("sft", 1, 0.5) / "result.json").write_text('{"id": ')
    runs, others = listed(tmp_path, [])
    assert ([run.config["seed"] for run in runs], others) == ([0], {"failed": 1})
    (broken,), _ = listed(tmp_path, ["status=failed"])
    assert "cannot be read" in broken.why


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sft"], "sft: not a filter; they are written key=value"),
        (["method="], "method=: not a filter"),
        (["methd=sft"], "methd: no run has such a setting; did you mean 'method'?"),
        (
            ["status=fine"],
            "status=fine: unknown; did you mean 'failed'? choose from: done, f",
        ),
        (["--by", "method,layer"], "--by layer: no run has such a setting; did you mean 'layers'?"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    (line,) = ls(tmp_path, *words, code=2)
    assert " ".join(line).startswith(f"error: {message}")


# ------------------------------------------------------------------------------------------------ means


@pytest.mark.parametrize("values", [(0.5, 0.7, 0.6), (1.0, 2.0), (3.0, 3.0, 3.0, 3.0)])
def test_the_interval_is_students_as_scipy_gives_it(values: tuple[float, ...]) -> None:
    found = interval(values)
    assert found is not None
    error = stats.sem(values)
    if error:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=error)
        assert (found.value - found.half, found.value + found.half) == pytest.approx((low, high))
    else:
        assert (found.value, found.half) == (values[0], 0)


def test_one_run_has_no_interval_and_a_run_without_the_value_spoils_the_mean() -> None:
    one = interval([0.5])
    assert one is not None
    assert (one.value, one.half) == (0.5, math.inf)
    assert interval([0.5, None]) is None
    assert interval([]) is None


@pytest.mark.usefixtures("several")
def test_the_seeds_of_a_run_are_one_line_with_their_interval(tmp_path: Path) -> None:
    (line,) = [words for words in ls(tmp_path, "--mean", "task=qasc") if words[0].startswith("qasc/sft")]
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert line[1:] == ["tiny", "3", "0.600", "±", f"{half:.3f}", "0.300", "±", f"{half / 2:.3f}", "1.5"]


@pytest.mark.usefixtures("several")
def test_runs_are_grouped_by_any_keys_and_what_is_mixed_is_said(tmp_path: Path) -> None:
    lines = {words[0]: words for words in ls(tmp_path, "--by", "method", "task=qasc")}
    assert lines["sft"][1:4] == ["3", "1", "0.600"]
    assert lines["g_freeze"][1:4] == ["3", "3", "0.700"]


@pytest.mark.usefixtures("several")
def test_scores_of_different_kinds_are_not_averaged(tmp_path: Path) -> None:
    (line,) = [words for words in ls(tmp_path, "--by", "model") if words[0] == "tiny"]
    assert line[1:4] == ["7", "5", "–"]


@pytest.mark.usefixtures("several")
def test_other_measures_can_be_asked_for(tmp_path: Path) -> None:
    assert all("0.250" in words for words in ls(tmp_path, "-m", "kl/answer", "method=sft")[:4])


@pytest.mark.usefixtures("several")
def test_a_narrow_terminal_costs_no_digit(tmp_path: Path) -> None:
    wide = {word for line in ls(tmp_path, "-m", "kl/answer") for word in line if word[0].isdigit()}
    result = CliRunner().invoke(
        app, ["ls", "--results", str(tmp_path), "-m", "kl/answer"], env={"COLUMNS": "80"}
    )
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert wide <= set(result.stdout.split())


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.usefixtures("several")
def test_files_hold_the_rows_in_full(tmp_path: Path) -> None:
    ls(
        tmp_path,
        "task=qasc",
        "--mean",
        "--csv",
        str(tmp_path / "a" / "o.csv"),
        "--md",
        str(tmp_path / "o.md"),
    )
    with (tmp_path / "a" / "o.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    (sft,) = [row for row in rows if row["run"].startswith("qasc/sft")]
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    ends = [float(sft[key]) for key in ("task score low", "task score", "task score high")]
    assert ends == pytest.approx([0.6 - half, 0.6, 0.6 + half])
    single = next(row for row in rows if row["run"].startswith("qasc/g_freeze"))
    assert (single["runs"], single["task score low"]) == ("1", "")
    lines = (tmp_path / "o.md").read_text().splitlines()
    assert len(lines) == 2 + 4
    assert {line.count("|") for line in lines} == {len(lines[0].split("|")) - 1}
    assert f"0.600 ± {half:.3f}" in "".join(lines)


def test_a_file_that_cannot_be_written_is_named(make: Make, tmp_path: Path) -> None:
    make("sft", 0, 0.5)
    (tmp_path / "file").touch()
    (line,) = ls(tmp_path, "--csv", str(tmp_path / "file" / "o.csv"), code=2)
    assert " ".join(line).startswith(f"error: {tmp_path / 'file' / 'o.csv'}: cannot be written")


def test_without_runs_the_files_are_empty_and_it_says_how_to_start(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ls", "--results", str(tmp_path), "--csv", str(tmp_path / "o.csv")])
    assert (result.exit_code, "gdo train" in result.stdout) == (0, True)
    with pytest.raises(UserError):
        listed(tmp_path, ["x"])
