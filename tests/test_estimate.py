"""Claims about what an open point is said to cost: like finished runs of its kind, else by its plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import RunFactory, recorded

from gdo_cli.commands.sweep import estimate
from gdo_cli.commands.sweep.estimate import Estimator
from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment.plan import EFFICIENCY, plan
from gdo_cli.runs.folder import RunFolder
from gdo_cli.support.identity import identity


def finish(config: RunConfig, train_seconds: float, wall_seconds: float, memory: int = 1) -> None:
    """A run that took so long; it is on record as a run of ``config.train.steps`` steps."""
    folder = RunFolder(config.path)
    with folder.lock():
        folder.start({})
        folder.seal(
            recorded(
                {"id": config.id, "seed": config.seed, "name": config.name, "config": identity(config)}
                | {"final": {}, "steps": config.train.steps if config.method.trains else 0}
                | {"train_seconds": train_seconds, "wall_seconds": wall_seconds, "peak_memory_bytes": memory}
            )
        )


def test_a_point_costs_what_its_like_did_by_steps_batches_and_evaluations(tiny_run: RunFactory) -> None:
    """Ten steps and an evaluation every five took 100 s and 40 s; four evaluations in all."""
    done = tiny_run("method=g_freeze", "train.steps=10", "evaluation.every=5")
    finish(done, train_seconds=100, wall_seconds=140, memory=3 << 30)
    longer = tiny_run(
        "method=g_freeze", "train.steps=40", "train.batch_size=2", "evaluation.every=20", "seed=1"
    )
    guess = Estimator(longer.results_dir).estimate(longer)
    assert guess.source == "runs"
    assert guess.hours == pytest.approx((100 * 4 / 2 + 40) / 3600)
    assert guess.memory == 3 << 30


def test_the_nearest_runs_count_and_of_them_the_median(tiny_run: RunFactory) -> None:
    finish(tiny_run("method=g_freeze", "task=qasc"), 1000, 1000)
    finish(tiny_run("method=sft"), 5000, 5000)
    finish(tiny_run("method=g_freeze", "layers=[0]"), 10, 10)
    point = tiny_run("method=g_freeze", "seed=9")
    assert Estimator(point.results_dir).estimate(point).hours == pytest.approx(1000 / 3600)
    for seed, seconds in enumerate((60, 70, 500)):
        finish(tiny_run("method=g_freeze", f"seed={seed}"), seconds, seconds)
    assert Estimator(point.results_dir).estimate(point).hours == pytest.approx(70 / 3600)


def test_without_such_runs_the_plan_of_the_method_tells(
    tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps; three evaluations of 8 and 4 items, and 8 at the end, each a forward pass of the base."""
    monkeypatch.setattr(estimate, "matrix_rate", lambda: 1e9)
    config = tiny_run("method=g_freeze")
    guess = Estimator(config.results_dir).estimate(config)
    planned = plan(config, 64)
    forward = 2 * planned.counts.base * 64
    flops = 4 * planned.flops + (3 * (8 + 4) + 8) * forward
    assert guess.source == "plan"
    assert guess.hours == pytest.approx(flops / (EFFICIENCY * 1e9) / 3600)
    assert guess.memory == planned.weights + planned.training + planned.activations


def test_what_trains_nothing_costs_its_evaluations(
    tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "matrix_rate", lambda: 1e9)
    config = tiny_run("method=frozen")
    trained = Estimator(config.results_dir).estimate(tiny_run("method=sft")).hours
    frozen = Estimator(config.results_dir).estimate(config).hours
    assert trained is not None
    assert frozen is not None
    assert 0 < frozen < trained


@pytest.mark.parametrize(
    "words", [["train.steps=null", "train.epochs=1"], ["model=custom", "model.path=some/model"]]
)
def test_what_cannot_be_known_is_not_guessed(tiny_run: RunFactory, words: list[str], tmp_path: Path) -> None:
    guess = Estimator(str(tmp_path)).estimate(tiny_run(*words))
    assert (guess.hours, guess.memory, guess.source) == (None, None, "unknown")
