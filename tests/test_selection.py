"""Claims about ``select`` and ``stop``: which weights a run ends with, and when training ends."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import RunFactory
from safetensors.torch import load_file
from test_resume import contents, cut_off
from torch import nn

from gdo_cli.config.build import load_run, rebuild
from gdo_cli.config.run_config import StopConfig
from gdo_cli.evaluation.contract import Contract
from gdo_cli.evaluation.evaluator import Evaluation
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import Opened
from gdo_cli.experiment.selection import Selection
from gdo_cli.runs.folder import RunFolder
from gdo_cli.stats.metrics import EXACT_MATCH
from gdo_cli.support.errors import RunFailed, UserError

STEPS = ("method=sft", "train.steps=6", "evaluation.every=2", "train.lr=1e-3", "train.checkpoint_every=1")
PROMISED = ("probe=[winogrande,perplexity]", "probe.perplexity.items=4", "keep.tolerances={perplexity: 0.5}")


# ------------------------------------------------------------------------- the rule, against brute force


def evaluated(score: float, lost: float) -> Evaluation:
    """An evaluation in which a loss of text rose by so much on each of four items."""
    rows = [{"part": "perplexity", "item": i, "loss": 3.0 + lost + i / 1000} for i in range(4)]
    return Evaluation({"task/exact_match": score}, rows)


def chosen(tmp_path: Path, rule: str, seen: list[tuple[float, float]], **stop: Any) -> Selection:
    """A selection that has seen evaluations (score, rise of the loss), one a step."""
    config: Any = SimpleNamespace(
        select=rule,
        stop=StopConfig(**stop),
        keep=Contract({"perplexity": 0.5}),
        task=SimpleNamespace(metric=EXACT_MATCH),
        probe=load_run(["model=tiny", "data=sample", *PROMISED]).probe,
    )
    tmp_path.mkdir(exist_ok=True)
    selection = Selection(config, RunFolder(tmp_path))
    before: Any = SimpleNamespace(predictions=evaluated(0, 0).predictions, chances={})
    model = nn.Linear(1, 1)
    for step, (score, lost) in enumerate(seen, 1):
        with torch.no_grad():
            model.weight.fill_(step)
        selection.see(step, evaluated(score, lost), before, model)
        if selection.stopped:
            break
    return selection


@pytest.mark.parametrize("rule", ["best", "kept"])
def test_the_rule_takes_what_a_search_over_all_evaluations_takes(tmp_path: Path, rule: str) -> None:
    kinds = [(0.2, 0.0), (0.5, 0.0), (0.5, 1.0), (0.9, 1.0)]
    for number, seen in enumerate(product(kinds, repeat=3)):

        def merit(item: tuple[int, tuple[float, float]]) -> tuple[bool, float, int]:
            step, (score, lost) = item
            return (rule == "kept" and lost <= 0.5, score, -step)

        best, _ = max(enumerate(seen, 1), key=merit)
        found = chosen(tmp_path / str(number), rule, list(seen))
        assert found.step == best, seen
        model = nn.Linear(1, 1)
        found.restore(99, model)
        assert model.weight.item() == best
        assert [f.name for f in (tmp_path / str(number)).glob("selected*")] == [
            f"selected-{best}.safetensors"
        ]


def test_patience_ends_training_after_so_many_evaluations_without_a_better_one(tmp_path: Path) -> None:
    scores = [(s, 0.0) for s in (0.1, 0.4, 0.3, 0.4, 0.9)]
    found = chosen(tmp_path, "best", scores, patience=2)
    assert (found.step, found.stopped) == (2, "no better evaluation in the last 2")
    assert chosen(tmp_path, "last", scores, patience=3).stopped is None


def test_a_lost_promise_ends_training(tmp_path: Path) -> None:
    found = chosen(tmp_path, "last", [(0.1, 0.2), (0.2, 0.9), (0.3, 0.0)], lost=True)
    assert found.stopped == "the contract is broken after step 2"


# ------------------------------------------------------------------------------------------- in runs


def trained_weights(result: Any) -> dict[str, Any]:
    return {name: t.tolist() for name, t in load_file(result.path / "trained/parameters.safetensors").items()}


def test_the_best_evaluation_is_what_a_run_of_its_length_ends_with(
    tiny_run: RunFactory, tmp_path: Path
) -> None:
    best = experiment.run(tiny_run(*STEPS, "select=best", results_dir=tmp_path / "best"))
    step = best.record.selected["step"]
    assert step == 2  # of equal scores, the earliest
    alone = experiment.run(tiny_run(*STEPS, f"train.steps={step}", results_dir=tmp_path / "alone"))
    assert trained_weights(best) == trained_weights(alone)
    assert best.final == alone.final
    assert best.predictions == alone.predictions
    assert best.record.steps == 6
    assert not list(best.path.glob("selected*"))
    assert best.validation_score == alone.validation_score
    opened = Opened(rebuild(best, None), best)
    assert opened.tuned() is not None  # its weights are those that were recorded


@pytest.mark.parametrize("call", [3, 5])
def test_a_run_that_was_cut_off_selects_the_same_bits(
    tiny_run: RunFactory, tmp_path: Path, call: int
) -> None:
    words = (*STEPS, *PROMISED, "select=kept", "stop.patience=2")
    whole = experiment.run(tiny_run(*words, results_dir=tmp_path / "whole"))
    config = tiny_run(*words, results_dir=tmp_path / "cut")
    cut_off(config, experiment._Run, "log", call)
    cut_off(config, experiment._Run, "final", 1)
    assert contents(experiment.run(config)) == contents(whole)
    assert whole.record.selected == {
        "rule": "kept",
        "step": 2,
        "verdict": "kept",
        "stopped": "no better evaluation in the last 2",
    }


def test_weights_that_are_gone_are_told(tiny_run: RunFactory) -> None:
    config = tiny_run(*STEPS, "select=best")
    cut_off(config, experiment._Run, "log", 5)
    next(config.path.glob("selected-*")).unlink()
    with pytest.raises(RunFailed, match="--force"):
        experiment.run(config)


def test_a_run_that_stops_early_says_how_long_it_was(tiny_run: RunFactory) -> None:
    done = experiment.run(tiny_run(*STEPS, "stop.patience=1"))
    assert (done.record.steps, done.record.selected) == (4, {"stopped": "no better evaluation in the last 1"})
    assert done.evaluations[-1]["step"] == 4


def test_every_evaluation_says_what_became_of_the_contract(tiny_run: RunFactory) -> None:
    done = experiment.run(tiny_run(*STEPS, *PROMISED))
    told = [line for line in done.metrics if line["kind"] == "contract"]
    assert [(line["step"], line["verdict"]) for line in told] == [(2, "kept"), (4, "kept"), (6, "kept")]
    rise = done.evaluations[-1]["perplexity/loss"] - done.evaluations[0]["perplexity/loss"]
    assert told[-1]["lost"]["perplexity/loss"] == pytest.approx(rise, abs=1e-5)


# ------------------------------------------------------------------------------------------- settings


def id_of(*words: str) -> str:
    return load_run(["model=tiny", "data=sample", *PROMISED, *words]).id


def test_a_contract_counts_in_a_runs_id_only_where_it_decides() -> None:
    assert id_of() == id_of("keep.level=0.1") == id_of("select=last", "stop.patience=null", "stop.lost=false")
    assert id_of("select=best") != id_of()
    assert id_of("select=best") == id_of("select=best", "keep.level=0.1")
    assert id_of("select=kept") != id_of("select=kept", "keep.level=0.1")
    assert id_of("stop.lost=true") != id_of("stop.lost=true", "keep.level=0.1")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["select=first"], "choose from: best, kept, last"),
        (["select=kept"], "nothing is promised"),
        (["stop.lost=true"], "nothing is promised"),
        (["stop.patience=0"], "must be positive"),
        (["stop.patience=2", "train.lr_scheduler=linear"], "never reaches"),
        (["stop.patients=2"], "patience"),
        (
            ["select=kept", "keep.tolerances={winogrande: 0.1}", "probe.winogrande.throughout=false"],
            "probe.winogrande.throughout=true",
        ),
    ],
)
def test_rules_that_cannot_come_to_anything_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_run(["model=tiny", "data=sample", *words])
