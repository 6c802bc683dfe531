"""Claims about contracts and ``gdo check``: what is promised, judged, and told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import RunFactory
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.check import check_run
from gdo_cli.config.build import load_run, rebuild
from gdo_cli.data.dataset import Dataset
from gdo_cli.evaluation.contract import Contract, Promise
from gdo_cli.evaluation.verdict import Learnt, hold, judge
from gdo_cli.experiment.run import run
from gdo_cli.probes.arc_easy import ARCEasy
from gdo_cli.probes.base import Probe
from gdo_cli.probes.perplexity import Perplexity
from gdo_cli.probes.piqa import PIQA
from gdo_cli.runs.record import RunResult, read_run
from gdo_cli.stats.outcomes import Interval
from gdo_cli.support.errors import UserError

PROBES: dict[str, Probe] = {
    "arc_easy": ARCEasy(Dataset("arc_easy")),
    "piqa": PIQA(Dataset("piqa")),
    "perplexity": Perplexity(Dataset("wikitext2")),
}
# A tiny model is near guessing, so that it has no index to keep.
KEEP = (
    "probe=[winogrande,arc_easy,perplexity]",
    "probe.arc_easy.items=20",
    "probe.perplexity.items=4",
    "keep.tolerances={arc_easy: 0.5, perplexity: 5%}",
)


def rows(part: str, key: str, values: Sequence[float], weights: Sequence[float] = ()) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"part": part, "item": i, key: v} for i, v in enumerate(values)]
    for row, weight in zip(found, weights, strict=False):
        row[f"{key}_weight"] = weight
    return found


# ------------------------------------------------------------------------------------- the contract


def test_a_contract_names_probes_measures_and_the_index() -> None:
    contract = Contract(
        {"arc_easy": 0.02, "piqa/likelihood_norm": "5%", "retention/index": 0, "perplexity": None}
    )
    assert contract.promises(PROBES) == [
        Promise("arc_easy/likelihood", 0.02),
        Promise("piqa/likelihood_norm", 0.0, 0.05),
        Promise("retention/index", 0.0),
    ]
    assert [promise.written for promise in contract.promises(PROBES)] == ["0.02", "5%", "0"]


@pytest.mark.parametrize(
    ("tolerances", "told"),
    [
        ({"arc_easy": -0.02}, "keep.tolerances.arc_easy=-0.02.*0 or more"),
        ({"arc_easy": "-2%"}, "0 or more"),
        ({"arc_easy": "two"}, "must be a number"),
        ({"arc_easy": True}, "must be a number"),
        ({"arc_easy": float("nan")}, "0 or more"),
        ({"arc_easi": 0.02}, "arc_easi is not asked.*did you mean 'arc_easy'"),
        ({"arc_easy/f1": 0.02}, "no measure f1.*likelihood, likelihood_norm"),
    ],
)
def test_a_contract_that_cannot_be_is_refused(tolerances: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Contract(tolerances).promises(PROBES)


def test_an_index_needs_two_probes() -> None:
    with pytest.raises(UserError, match="needs 2 probes"):
        Contract({"retention/index": 0.05}).promises({"arc_easy": PROBES["arc_easy"]})


def test_a_contract_changes_no_run() -> None:
    words = ["model=tiny", "data=sample", "probe=[arc_easy,piqa,lambada,perplexity]"]
    assert len({load_run([*words, f"keep={keep}"]).id for keep in ("none", "default", "strict")}) == 1


@pytest.mark.parametrize("keep", ["default", "strict"])
def test_a_preset_asks_the_probes_that_it_promises(keep: str) -> None:
    config = load_run(["model=tiny", "data=sample", f"keep={keep}"])
    assert [p.measure for p in config.keep.promises(config.probe)] == ["retention/index", "perplexity/loss"]


# ------------------------------------------------------------------------------------- the verdict


def test_less_of_a_loss_is_a_gain() -> None:
    before, after = rows("perplexity", "loss", [3.0, 3.2, 2.9]), rows("perplexity", "loss", [2.9, 3.1, 2.8])
    (found,) = judge([Promise("perplexity/loss", 0.01)], {}, before, after, 0.05)
    assert (found.verdict, round(found.lost.value, 9), round(found.after, 9)) == ("kept", -0.1, 2.933333333)


def test_more_of_a_loss_is_lost() -> None:
    before, after = rows("perplexity", "loss", [3.0, 3.2, 2.9]), rows("perplexity", "loss", [3.2, 3.4, 3.1])
    (found,) = judge([Promise("perplexity/loss", 0.1)], {}, before, after, 0.05)
    assert (found.verdict, round(found.lost.value, 9)) == ("lost", 0.2)


def test_broken_items_are_those_that_went_from_right_to_wrong() -> None:
    before, after = rows("arc_easy", "likelihood", [1, 0, 1, 1]), rows("arc_easy", "likelihood", [0, 1, 1, 0])
    (found,) = judge([Promise("arc_easy/likelihood", 0.1)], {}, before, after, 0.05)
    assert found.broken == {"arc_easy/likelihood": [0, 3]}


def test_the_order_of_rows_means_nothing() -> None:
    before, after = rows("a", "likelihood", [1, 1, 0, 1]), rows("a", "likelihood", [1, 0, 0, 1])
    promise = [Promise("a/likelihood", 0.1)]
    assert judge(promise, {}, before, after[::-1], 0.05) == judge(promise, {}, before, after, 0.05)


def test_models_that_were_asked_different_items_are_not_compared() -> None:
    before = rows("text", "loss", [3.0, 3.2], [10, 20])
    with pytest.raises(UserError, match="other items"):
        judge([Promise("text/loss", 0.1)], {}, before, rows("text", "loss", [3.0, 3.2], [10, 21]), 0.05)
    with pytest.raises(UserError, match="was not asked"):
        judge([Promise("text/loss", 0.1)], {}, before, [], 0.05)


def test_the_index_is_judged_on_the_items_of_its_probes() -> None:
    chances = {"arc_easy/likelihood": 0.25, "piqa/likelihood": 0.5}
    right = rows("arc_easy", "likelihood", [1] * 80 + [0] * 20) + rows(
        "piqa", "likelihood", [1] * 70 + [0] * 30
    )
    worse = rows("arc_easy", "likelihood", [1] * 60 + [0] * 40) + rows(
        "piqa", "likelihood", [1] * 65 + [0] * 35
    )
    (found,) = judge([Promise("retention/index", 0.1)], chances, right, worse, 0.05)
    assert found.after == pytest.approx((0.35 / 0.55 + 0.15 / 0.20) / 2)
    assert found.verdict == "lost"
    assert {measure: len(places) for measure, places in found.broken.items()} == {
        "arc_easy/likelihood": 20,
        "piqa/likelihood": 5,
    }
    (same,) = judge([Promise("retention/index", 0.1)], chances, right, right, 0.05)
    assert (same.after, same.verdict) == (1.0, "kept")


def test_a_whole_is_kept_only_if_every_part_is() -> None:
    before = rows("a", "likelihood", [1] * 100)
    one_lost = rows("a", "likelihood", [1] * 98 + [0] * 2)

    def verdicts(*tolerated: float) -> str:
        return hold(judge([Promise("a/likelihood", t) for t in tolerated], {}, before, one_lost, 0.05))

    assert verdicts(0.1) == "kept"
    assert verdicts(0.1, 0.03) == "undecided"
    assert verdicts(0.1, 0.03, 0) == "lost"


@pytest.mark.parametrize(
    ("before", "after", "low", "guessing", "p", "learnt"),
    [
        (0.0, 0.8, 0.75, 0.6, 0.0, True),
        (0.0, 0.62, 0.58, 0.6, 0.0, False),  # no better than guessing
        (0.5, 0.52, 0.49, None, 0.3, False),
        (0.5, 0.4, 0.3, None, 0.99, False),
        (10.0, 12.0, 9.0, None, None, True),
    ],
)
def test_learnt_is_better_than_before_and_than_guessing(
    before: float, after: float, low: float, guessing: float | None, p: float | None, learnt: bool
) -> None:
    found = Learnt("task/exact_match", before, after, Interval(after, low, 1.0), guessing, p)
    assert found.is_learnt(0.05) is learnt


# ------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    from conftest import TINY_RUN

    results = tmp_path_factory.mktemp("results")
    return run(load_run([*TINY_RUN, f"results_dir={results}", "method=sft", *KEEP]))


def gdo_check(*words: str, results: Path) -> Any:
    return CliRunner().invoke(app, ["check", *words, "--results", str(results)], env={"COLUMNS": "80"})


def results_of(finished: RunResult) -> Path:
    return finished.path.parents[4]


def test_a_run_records_what_it_promised(finished: RunResult) -> None:
    again = read_run(finished.path)
    assert again.record.keep == {"tolerances": {"arc_easy": 0.5, "perplexity": "5%"}, "level": 0.05}
    assert rebuild(again, None).keep == Contract({"arc_easy": 0.5, "perplexity": "5%"})


def test_a_run_is_checked_by_what_it_promised_or_by_another_contract(finished: RunResult) -> None:
    own = check_run(finished, [], 0, None)
    assert [v.promise.measure for v in own.verdicts] == ["arc_easy/likelihood", "perplexity/loss"]
    other = check_run(finished, ["keep.tolerances.arc_easy=null", "keep.level=0.2"], 0, None)
    assert [v.promise.measure for v in other.verdicts] == ["perplexity/loss"]
    assert other.level == 0.2


def test_a_verdict_agrees_with_the_metrics_of_the_run(finished: RunResult) -> None:
    for verdict in check_run(finished, [], 0, None).verdicts:
        measure = verdict.promise.measure
        assert verdict.before == pytest.approx(finished.evaluations[0][measure], abs=1e-6)
        assert verdict.after == pytest.approx(finished.final[measure], abs=1e-6)


def test_the_command_prints_one_screen_and_says_by_its_exit_code(finished: RunResult, tmp_path: Path) -> None:
    done = gdo_check("sft", "--md", str(tmp_path / "c.md"), "--items", "1", results=results_of(finished))
    assert done.exit_code == 1, done.output  # a tiny model learns nothing in four steps
    assert "not learnt" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if "promise" in line or "↓" in line)
    assert "| arc_easy/likelihood |" in (tmp_path / "c.md").read_text()


def test_json_is_all_that_stands_on_standard_output(finished: RunResult) -> None:
    found = json.loads(gdo_check("sft", "--json", results=results_of(finished)).stdout)
    assert set(found) == {"model", "level", "good", "kept", "task", "promises", "items"}
    assert [p["measure"] for p in found["promises"]] == ["arc_easy/likelihood", "perplexity/loss"]
    fields = {"measure", "amount", "share", "base", "now", "lost", "low", "high", "tolerated", "items"}
    assert set(found["promises"][0]) == fields | {"needed", "verdict", "broken"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sft", "keep=strict"], "the index needs 2 probes"),
        (["sft", "keep=strictly"], "did you mean 'strict'"),
        (["sft", "keep.tolerances={winogrand: 0.1}"], "winogrand"),
        (["nothing"], "no finished run"),
        (["a", "b", "c"], "two models"),
    ],
)
def test_what_cannot_be_checked_is_one_message(finished: RunResult, words: list[str], told: str) -> None:
    done = gdo_check(*words, results=results_of(finished))
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("words", [["keep=none"], ["keep.tolerances={arc_easy: null, perplexity: null}"]])
def test_an_empty_contract_holds_nothing(finished: RunResult, words: list[str]) -> None:
    with pytest.raises(UserError, match="nothing is promised"):
        check_run(finished, words, 0, None)


def test_what_was_learnt_is_that_of_the_weights_that_the_run_ended_with(finished: RunResult) -> None:
    lines = [dict(line) for line in finished.evaluations]
    assert len(lines) == 3
    for line, score in zip(lines, (0.1, 0.9, 0.2), strict=True):
        line["task/exact_match"] = score
    record = replace(finished.record, selected={"rule": "best", "step": lines[1]["step"]})
    run_ = RunResult(finished.path, record)
    run_.__dict__["evaluations"] = lines
    learnt = check_run(run_, [], 0, None).learnt
    assert learnt is not None
    assert (learnt.before, learnt.after) == (0.1, 0.9)
    assert run_.validation_score == 0.9


def test_a_loss_against_the_base_is_promised_only_where_it_is_measured() -> None:
    with pytest.raises(UserError, match="perplexity has no measure kl"):
        Contract({"perplexity/kl": 0.1}).promises(PROBES)


def test_a_base_near_guessing_has_no_index_and_trains_all_the_same(tiny_run: RunFactory) -> None:
    probes = ("probe=[winogrande,arc_easy,piqa]", "keep.tolerances={retention/index: 0.05, arc_easy: 0.5}")
    done = run(tiny_run("method=sft", *probes, "probe.arc_easy.items=20", "probe.piqa.items=20"))
    told = [line for line in done.metrics if line["kind"] == "contract"]
    assert all(set(line["lost"]) == {"arc_easy/likelihood"} for line in told)
    with pytest.raises(UserError, match="no index here"):
        check_run(done, [], 0, None)


def test_two_models_are_checked_that_gdo_did_not_make(
    finished: RunResult, tmp_path: Path, tiny_run: RunFactory
) -> None:
    from peft import LoraConfig, get_peft_model

    loaded = tiny_run().model.load()
    for name in ("base", "same"):
        loaded.model.save_pretrained(tmp_path / name)
        loaded.save_tokenizer(tmp_path / name)
    adapted = get_peft_model(loaded.model, LoraConfig(target_modules=["down_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    words = [word for word in KEEP if not word.startswith("probe=")]
    probes = ["probe=[arc_easy,perplexity]", "data=sample"]
    for tuned in ("same", "adapter"):
        folders = [str(tmp_path / "base"), str(tmp_path / tuned)]
        done = gdo_check(*folders, *probes, *words, "--json", results=results_of(finished))
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["task"] is None
        assert [p["lost"] for p in found["promises"]] == [0.0, 0.0]
