"""Claims about ``--json``: one object and nothing else on standard output, with the fields that docs name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands import doctor
from gdo_cli.commands.ls import as_plain
from gdo_cli.config.build import load_run
from gdo_cli.experiment.run import run
from gdo_cli.runs.find import find_run
from gdo_cli.stats.outcomes import Interval

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "json.md").read_text("utf-8")
DOCUMENTED = {
    command: set(re.findall(r"`(\w+)`", fields))
    for command, fields in re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, flags=re.M)
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs of the tiny model."""
    folder = tmp_path_factory.mktemp("results")
    words = ["model=tiny", "task=qasc", "data=sample", "probe=[arc_easy]", "probe.arc_easy.items=6"]
    words += ["evaluation.items=4", "evaluation.final_items=8", "train.steps=2", "train.batch_size=2"]
    for method in ("sft", "g_freeze"):
        run(load_run([*words, f"method={method}", f"results_dir={folder}"]))
    return folder


def answer(*words: str, code: int = 0) -> dict[str, Any]:
    """What is on standard output, all of it read as one JSON object."""
    found = CliRunner().invoke(app, [*words, "--json"])
    assert found.exit_code == code, found.stderr
    content = json.loads(found.stdout)
    assert isinstance(content, dict)
    assert content.keys() >= DOCUMENTED[words[0]]
    return content


def test_the_page_names_every_command_that_takes_the_option() -> None:
    assert DOCUMENTED.keys() == {"ls", "show", "compare", "plan", "evaluate", "doctor"}
    assert all(DOCUMENTED.values())


def test_ls_gives_the_numbers_of_each_run(results: Path) -> None:
    rows = {row["run"]: row for row in answer("ls", "--results", str(results))["runs"]}
    assert len(rows) == 2
    for method in ("sft", "g_freeze"):
        finished = find_run(method, results)
        row = rows[finished.title]
        assert row["task_score"] == finished.final[finished.task_score]
        assert row["lr"] == finished.record.config["train"]["lr"]
        assert row["trained_percent"] == pytest.approx(100 * finished.record.parameters.trainable_share)


def test_ls_without_runs_is_an_empty_list(tmp_path: Path) -> None:
    assert answer("ls", "--results", str(tmp_path)) == {"runs": [], "others": {}}


def test_a_mean_over_one_run_has_no_ends() -> None:
    row = as_plain(
        {"task score": Interval.unbounded(0.5), "trained %": 2.0, "other": Interval(1.0, 0.5, 1.5)}
    )
    assert row == {
        "task_score": {"value": 0.5, "low": None, "high": None},
        "trained_percent": 2.0,
        "other": {"value": 1.0, "low": 0.5, "high": 1.5},
    }


def test_show_gives_the_whole_record(results: Path) -> None:
    found = answer("show", "g_freeze", "--results", str(results))
    on_disk = json.loads((Path(found["path"]) / "result.json").read_text("utf-8"))
    assert {key: found[key] for key in on_disk} == on_disk


def test_compare_gives_a_cell_for_each_column(results: Path) -> None:
    found = answer("compare", "sft", "g_freeze", "--results", str(results))
    assert [column["title"].split("/")[1].split("-")[0] for column in found["columns"]] == ["sft", "g_freeze"]
    for measure, (first, second) in found["measures"].items():
        assert first["value"] == pytest.approx(find_run("sft", results).final[measure])
        assert first["paired"] is None
        difference = second["value"] - first["value"]
        assert second["paired"]["difference"] == pytest.approx(difference, abs=1e-6)


def test_plan_counts_what_the_run_counted(results: Path) -> None:
    found = answer("plan", "model=tiny", "method=g_freeze")
    counted = find_run("g_freeze", results).record.parameters
    assert [plan["counts"]["trainable"] for plan in found["plans"]] == [counted.trainable]


def test_evaluate_measures_what_the_run_measured(results: Path) -> None:
    words = ["g_freeze", "--probe", "arc_easy", "--items", "6", "--results", str(results)]
    found = answer("evaluate", *words)
    finished = find_run("g_freeze", results)
    assert found["run"] == finished.title
    for measure in ("arc_easy/likelihood", "arc_easy/likelihood_norm"):
        assert found["metrics"][measure] == finished.final[measure]


def test_doctor_is_ready_unless_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for sign, code in (("note", 0), ("missing", 1)):
        monkeypatch.setattr(doctor, "examine", lambda sign=sign: [(sign, "data=local", "set it")])
        found = answer("doctor", code=code)
        assert found == {
            "ready": not code,
            "findings": [{"status": sign, "subject": "data=local", "found": "set it"}],
        }


def test_a_mistake_leaves_standard_output_empty(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["show", "nothing", "--json", "--results", str(tmp_path)])
    assert found.exit_code == 2
    assert found.stdout == ""
