"""Claims about ``gdo tune``: its space, its study, the way back to the base, and what it hands over."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TINY_RUN
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.tune import search as searching
from gdo_cli.commands.tune.search import Candidate, merit, search, way_back
from gdo_cli.commands.tune.study import Study
from gdo_cli.config.tune import Tuning
from gdo_cli.evaluation.contract import Promise
from gdo_cli.evaluation.verdict import Verdict
from gdo_cli.stats.noninferiority import Lost
from gdo_cli.support.errors import RunFailed, UserError

WORDS = [
    *(word for word in TINY_RUN if "winogrande" not in word),
    "probe=[piqa,perplexity]",
    "probe.piqa.items=20",
    "probe.perplexity.items=4",
    "keep.tolerances={perplexity/kl: 0.05, piqa: 0.5}",
]


def tuning(results: Path, *words: str) -> Tuning:
    return Tuning([*WORDS, f"results_dir={results}", *words], None)


# ---------------------------------------------------------------------------------------------- the space


def test_every_method_is_tried_at_its_usual_rate_first(tmp_path: Path) -> None:
    found = tuning(tmp_path)
    first = [found.overrides(point) for point in found.usual()]
    assert [words[0] for words in first] == [f"method={m}" for m in ("g_freeze", "mlp_only", "sft", "lora")]
    rates = [float(words[1].removeprefix("train.lr=")) for words in first]
    model_lr = found.first.model.lr
    assert rates == [model_lr, model_lr, model_lr, pytest.approx(10 * model_lr)]


def test_what_the_user_fixes_is_not_searched(tmp_path: Path) -> None:
    assert [d.key for d in tuning(tmp_path, "train.lr=1e-4").space] == ["method"]
    lora = tuning(tmp_path, "method=lora")
    assert [(d.key, d.low, d.when) for d in lora.space] == [("train.lr", 2.5, {})]


def test_several_values_and_intervals_are_searched_in_the_place_of_the_files(tmp_path: Path) -> None:
    found = tuning(tmp_path, "method=sft,g_freeze", "train.lr=interval(1e-5,1e-3)", "layers=1,2")
    assert [(d.key, d.choices, d.low, d.high, d.log) for d in found.space] == [
        ("method", ["sft", "g_freeze"], None, None, False),
        ("train.lr", None, 1e-5, 1e-3, True),
        ("layers", ["1", "2"], None, None, False),
    ]


def test_trials_end_by_their_contract_and_see_no_test_items(tmp_path: Path) -> None:
    found = tuning(tmp_path)
    config = found.point(found.usual()[0])
    assert (config.select, config.stop.lost, config.evaluation.final_items) == ("kept", True, 0)
    decaying = tuning(tmp_path, "train.lr_scheduler=linear")
    assert not decaying.point(decaying.usual()[0]).stop.lost


def test_a_study_is_named_by_all_that_is_not_searched(tmp_path: Path) -> None:
    name = tuning(tmp_path).name
    assert tuning(tmp_path, "trials=3", "hours=2", "rescue=0").name == name
    others = ("train.steps=5", "seed=1", "keep.level=0.1", "method=sft,lora", "train.lr=1e-4")
    assert len({name, *(tuning(tmp_path, word).name for word in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trials=0"], "tune.trials=0: must be positive"),
        (["hours=-1"], "tune.hours"),
        (["tune.space=[{key: train.lr, low: 2, high: 1}]"], "high is larger"),
        (["tune.space=[{key: train.lr, low: 0, high: 1, log: true}]"], "must be positive"),
        (["tune.space=[{key: method}]"], "give choices"),
        (["keep.tolerances=null"], "under a contract"),
        (["method=g_frieze,g_frieze2"], "g_frieze"),
        (["hydra/launcher=joblib", "method=sft,lora"], "searches by itself"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tmp_path: Path, words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        tuning(tmp_path, *words)


# ------------------------------------------------------------------------------------- what is chosen


def model(score: float, lost: float, alpha: float = 1.0) -> Candidate:
    """A model with a promise of which so much was lost, with certainty; 1 is tolerated."""
    promise = Verdict(Promise("a/b", 1.0), 0.0, 0.0, Lost(lost, lost, lost, 1.0, 10, None))
    run: Any = SimpleNamespace(path=Path("run"), name={"method": "sft"})
    return Candidate(0, [], alpha, run, score, [promise])


def test_the_best_that_holds_is_chosen_or_else_what_comes_nearest() -> None:
    kept = [model(0.5, 0.9), model(0.6, 0.5), model(0.6, 0.4)]
    assert max([*kept, model(0.9, 1.1)], key=merit) is kept[2]
    broken = [model(0.9, 3.0), model(0.2, 1.5)]
    assert max(broken, key=merit) is broken[1]


@pytest.mark.parametrize("edge", [0.03, 0.2, 0.55, 0.8, 0.97])
def test_the_way_back_ends_next_to_the_last_point_that_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edge: float
) -> None:
    found = tuning(tmp_path, "rescue=6")
    monkeypatch.setattr(searching, "_between", lambda trained, alpha, tuning: alpha)
    monkeypatch.setattr(
        searching, "candidate", lambda number, words, done, tuning, alpha: model(alpha, alpha / edge, alpha)
    )
    asked = list(way_back(model(1.0, 1 / edge), found, lambda alpha: alpha))  # type: ignore[arg-type, return-value]
    held = [c.alpha for c in asked if c.kept == "kept"]
    assert len(asked) == 6
    grid = [n / 64 for n in range(65) if n / 64 <= edge]  # brute force, at the last step's width
    assert max(held, default=0.0) == max(grid)


def test_who_holds_the_contract_needs_no_way_back(tmp_path: Path) -> None:
    assert list(way_back(model(1.0, 0.5), tuning(tmp_path), lambda config: None)) == []


# ------------------------------------------------------------------------------------- the study


def test_processes_share_a_study(tmp_path: Path) -> None:
    one, other = Study(tuning(tmp_path)), Study(tuning(tmp_path))
    points = [study.ask()[1]["method"] for study in (one, other, one, other)]
    assert points == ["g_freeze", "mlp_only", "sft", "lora"]  # what is queued is asked once
    assert one.begun == other.begun == 4


def test_a_trial_of_a_process_that_died_is_asked_again(tmp_path: Path) -> None:
    found = tuning(tmp_path)
    study = Study(found)
    trial, point = study.ask()
    trial.set_user_attr("run", str(found.point(point).path))
    again = Study(found)
    again.revive()
    assert again.begun == 0
    points = [again.ask()[1] for _ in range(4)]
    assert point in points


def test_a_storage_of_another_search_is_refused(tmp_path: Path) -> None:
    Study(tuning(tmp_path, f"storage={tmp_path / 'study.log'}"))
    with pytest.raises(UserError, match="holds another search"):
        Study(tuning(tmp_path, f"storage={tmp_path / 'study.log'}", "train.steps=7"))


@pytest.mark.parametrize("content", [b"\x00\xff nothing", b'{"op_code": 99}\n', b"[1]\n"])
def test_a_storage_that_is_damaged_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.log").write_bytes(content)
    with pytest.raises(UserError, match="move it away"):
        Study(tuning(tmp_path, f"storage={tmp_path / 'study.log'}"))


def test_a_trial_that_fails_ends_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, failed = searching.run, []

    def run(config: Any, **more: Any) -> Any:
        if config.name["method"] == "g_freeze":
            failed.append(config)
            raise RunFailed("the loss is nan")
        return usual(config, **more)

    monkeypatch.setattr(searching, "run", run)
    found = search(tuning(tmp_path, "method=g_freeze,sft", "train.lr=1e-3", "trials=1"))
    assert [c.run.name["method"] for c in found] == ["sft"]
    assert len(failed) == 1


def test_points_that_are_impossible_are_no_trials(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no layer 99"):
        tuning(tmp_path, "method=g_freeze,g_train", "layers=[99]")
    found = tuning(tmp_path, "method=sft,g_freeze", "layers=[1]", "train.lr=1e-3", "trials=1")
    assert [c.run.name["method"] for c in search(found)] == ["g_freeze"]


# ------------------------------------------------------------------------------------- the command


def gdo_tune(results: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["tune", *WORDS, f"results_dir={results}", *words], env={"COLUMNS": "80"})


def test_a_search_ends_with_a_model_its_files_and_the_next_commands(tmp_path: Path) -> None:
    words = ("method=g_freeze,sft", "train.lr=interval(1e-4,5e-2)", "trials=3", "rescue=2", "--json")
    done = gdo_tune(tmp_path, *words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (folder,) = (tmp_path / "tune").iterdir()
    names = {"study.log", "result.json", "models.csv", "confirmed.json", "tune.png", "tune.pdf", "tune.csv"}
    assert {file.name for file in folder.iterdir()} == names
    assert json.loads((folder / "result.json").read_text()) == found
    assert len([row for row in found["models"] if row["chosen"]]) == 1
    assert "task/exact_match" in found["test"]
    chosen = next(row for row in found["models"] if row["chosen"])
    assert chosen["verdict"] == "kept"
    assert chosen["score"] == max(row["score"] for row in found["models"] if row["verdict"] == "kept")
    again = gdo_tune(tmp_path, *words)  # nothing is trained or measured again
    assert json.loads(again.stdout) == found
    shown = gdo_tune(tmp_path, *words[:-1])
    assert "gdo export" in shown.stdout
    assert "trial" not in again.stderr


def test_if_nothing_holds_the_contract_it_says_what_would_have_to_give(tmp_path: Path) -> None:
    words = ("method=sft", "train.lr=0.05", "keep.tolerances={perplexity/kl: 1e-9}", "trials=1", "rescue=0")
    done = gdo_tune(tmp_path, *words)
    assert done.exit_code == 1, done.output
    assert "No model holds the contract" in done.stdout
    assert "perplexity/kl would need a tolerance of" in " ".join(done.stdout.split())
