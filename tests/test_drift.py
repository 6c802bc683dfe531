"""Drift from the base: CKA and cosine against other formulas, states against a model's own, whole runs."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BOS, TINY_RUN, perturb, random_ids, tiny_model
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.analyze import drift, skeleton
from gdo_cli.commands.analyze.drift import (
    Drift,
    GivenFormat,
    HiddenStates,
    drift_by_layer,
    hidden_states,
    linear_cka,
    mean_cosine,
    places,
)
from gdo_cli.commands.analyze.skeleton import analyse
from gdo_cli.commands.plot import plot_all
from gdo_cli.config.build import load_run
from gdo_cli.config.grid import load_grid
from gdo_cli.data.dataset import Dataset
from gdo_cli.experiment.run import run
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.methods.blocks import ZeroBlock
from gdo_cli.probes.winogrande import WinoGrande
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.outcomes import Answer
from gdo_cli.support.errors import UserError

# ------------------------------------------------------------------------------------------- formulas


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def cka_by_kernels(x: Any, y: Any) -> float:
    """The other form: HSIC of the two Gram matrices, centred by H (Kornblith et al., 2019, equation 2)."""
    x, y, n = x.astype(np.float64), y.astype(np.float64), len(x)
    centre = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: Any, other: Any) -> float:
        return float(np.trace(k @ centre @ other @ centre)) / (n - 1) ** 2

    kx, ky = x @ x.T, y @ y.T
    norm: float = np.sqrt(hsic(kx, kx) * hsic(ky, ky))
    return hsic(kx, ky) / norm


@pytest.mark.parametrize(("n", "width"), [(40, 6), (10, 30), (2, 1)])
def test_cka_is_that_of_the_kernels(n: int, width: int) -> None:
    x = normal(n, width) + 3  # far from zero: centring counts
    y = x @ normal(width, width, seed=1) + 0.5 * normal(n, width, seed=2)
    assert linear_cka(x, y) == pytest.approx(cka_by_kernels(x, y), rel=1e-6)


def test_cka_does_not_see_rotation_scale_or_shift() -> None:
    x = normal(50, 8)
    rotation, _ = np.linalg.qr(normal(8, 8, seed=1).astype(np.float64))
    assert linear_cka(x, (7 * x @ rotation + 2).astype(np.float32)) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x, normal(50, 8, seed=2)) < 0.5


def test_cka_of_states_that_do_not_vary_is_no_number() -> None:
    assert np.isnan(linear_cka(np.ones((4, 3), np.float32), normal(4, 3)))


def test_the_cosine_is_a_mean_over_places_with_its_error_over_texts() -> None:
    x, y, texts = normal(6, 4), normal(6, 4, seed=1), np.array([0, 0, 0, 1, 2, 2])
    cosines = [
        sum(float(a) * float(b) for a, b in zip(u, v, strict=True))
        / (sum(float(a) ** 2 for a in u) * sum(float(b) ** 2 for b in v)) ** 0.5
        for u, v in zip(x, y, strict=True)
    ]
    found = mean_cosine(x, y, texts)
    assert found.value == pytest.approx(sum(cosines) / 6)
    assert found.n == 3
    assert mean_cosine(x, 5 * x, texts).value == pytest.approx(1)
    assert mean_cosine(x, -x, texts).value == pytest.approx(-1)


def test_drift_by_layer_compares_layer_with_layer() -> None:
    states = normal(3, 20, 5)
    base = HiddenStates(states, np.repeat([0, 1], 10))
    tuned = HiddenStates(np.stack([states[0], normal(20, 5, seed=7), 2 * states[2]]), base.texts)
    found = drift_by_layer(base, tuned)
    assert (found["texts"], found["places"]) == (2, 20)
    assert found["cka"] == pytest.approx([1, cka_by_kernels(states[1], tuned.states[1]), 1], abs=1e-6)
    assert found["cosine"][0] == found["cosine"][2] == pytest.approx(1)


@pytest.mark.parametrize("length", [2, 3, 7, 100])
@pytest.mark.parametrize("most", [1, 2, 5, 16])
def test_places_are_spread_to_the_last_token_and_leave_out_the_first(length: int, most: int) -> None:
    chosen = places(length, most)
    assert len(chosen) == len(set(chosen)) == min(most, length - 1)
    assert chosen == sorted(chosen)
    assert min(chosen) >= 1
    assert chosen[-1] == length - 1
    gaps = {b - a for a, b in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


# --------------------------------------------------------------------------------------------- states


def answering(model: Any) -> AnswerLM:
    lm = AnswerLM(model.requires_grad_(False), torch.float32)
    lm.eval()
    return lm


TEXTS = [[BOS, *random_ids(n, seed=n).tolist()] for n in (4, 9, 17)]


@pytest.mark.parametrize("family", ["gemma3", "llama", "phi", "opt", "gemma3_multimodal"])
def test_states_are_those_that_the_model_itself_gives_by_layer(family: str) -> None:
    model: Any = tiny_model(family)
    layers = list(find_decoder(model).layers)
    found = hidden_states(answering(model), layers, TEXTS)
    assert not any(module._forward_hooks for module in model.modules())  # transformers adds its own below
    expected = []
    with torch.no_grad():
        for tokens in TEXTS:
            own = model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states
            expected.append(torch.stack(own)[:, 0, 1:])
    whole = torch.cat(expected, dim=1).numpy()
    # The model's last entry comes after its final norm, ours before it; its first are the embeddings.
    np.testing.assert_allclose(found.states[:-1], whole[1:-1], rtol=1e-4, atol=1e-5)
    assert found.texts.tolist() == [0] * 4 + [1] * 9 + [2] * 17


def test_blocks_put_in_between_are_not_compared_and_change_nothing_at_first() -> None:
    model = tiny_model("gemma3")
    layers = list(find_decoder(model).layers)
    before = hidden_states(answering(model), layers, TEXTS)
    grown = ZeroBlock().prepare(model, None)
    assert len(find_decoder(grown)) == 2 * len(layers)
    after = hidden_states(answering(grown), layers, TEXTS)
    np.testing.assert_allclose(after.states, before.states, rtol=1e-5, atol=1e-6)
    perturb(grown, 0.05, only="layers.1.")  # the first new block
    moved = drift_by_layer(before, hidden_states(answering(grown), layers, TEXTS))
    assert moved["cosine"][0] == pytest.approx(1)
    assert moved["cosine"][1] < 0.9999


def test_places_are_as_many_as_are_kept_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MOST_PLACES", 9)
    model = tiny_model("llama")
    found = hidden_states(answering(model), list(find_decoder(model).layers), TEXTS)
    assert found.states.shape[1] == 9


# --------------------------------------------------------------------------------------------- format

ROW = {"sentence": "Ann met Eve but _ left.", "option1": "Ann", "option2": "Eve", "answer": "2"}


def answer(logprob: float, exact: bool = False) -> Answer:
    return Answer(logprob, 1, exact, exact, "")


def test_the_two_options_follow_the_very_prompt_that_winogrande_generates_from() -> None:
    probe = GivenFormat(Dataset("winogrande"), 10, 1)
    right, wrong = probe.queries(ROW, [ROW])
    assert right == WinoGrande(Dataset("winogrande"), 10, 1).queries(ROW, [ROW])[0]
    assert (right.continuation, wrong.continuation) == (" Eve", " Ann")
    assert right.context == wrong.context


@pytest.mark.parametrize(("right", "choice"), [(-1.0, 1.0), (-3.0, 0.0)])
def test_a_model_that_answers_something_else_can_still_choose(right: float, choice: float) -> None:
    found = GivenFormat(Dataset("winogrande")).outcomes(ROW, [answer(right), answer(-2.0)])
    assert {key: outcome.value for key, outcome in found.items()} == {"exact_match": 0.0, "choice": choice}


def test_rows_without_an_answer_are_refused_as_by_winogrande() -> None:
    with pytest.raises(ValueError, match="answer"):
        GivenFormat(Dataset("winogrande")).queries({**ROW, "answer": "3"}, [])


# ----------------------------------------------------------------------------------------- whole runs

FEW = Drift(prompts=6, items=5, shots=(0, 2))
FEW_WORDS = ["--prompts", "6", "--items", "5", "--shots", "2", "--shots", "0"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def trained(results: Path, *words: str) -> RunResult:
    return run(load_run([*TINY_RUN, f"results_dir={results}", *words]))


@pytest.fixture(scope="module")
def tuned(results: Path) -> RunResult:
    return trained(results, "method=sft", "train.lr=1e-2")


@pytest.mark.slow
def test_drift_is_kept_beside_its_run_and_not_measured_twice(
    tuned: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = analyse(tuned, FEW, None)
    assert found == tuned.analysis("drift")
    assert json.loads(json.dumps(found)) == found
    for kind in ("probes", "task"):
        part = found["hidden"][kind]
        assert part["texts"] == 6
        assert len(part["cka"]) == len(part["cosine"]) == 4
        assert max(part["cosine"]) < 0.999
    assert set(found["kl"]) == {"task_answer", "task_prompt", "text"}
    assert all(number["value"] > 0.01 for number in found["kl"].values())
    assert list(found["winogrande"]["base"]) == list(found["winogrande"]["run"]) == ["0", "2"]
    monkeypatch.setattr(skeleton, "Opened", lambda *_: pytest.fail("measured again"))
    assert analyse(tuned, FEW, None) == found
    with pytest.raises(UserError, match=r"drift.json was made with prompts=\d+; --force puts a new one"):
        analyse(tuned, replace(FEW, prompts=FEW.prompts + 1), None)
    monkeypatch.setattr(os, "access", lambda *_: False)  # a folder that is not one's own can be read
    assert analyse(tuned, FEW, None) == found
    with pytest.raises(UserError, match="analysis: cannot be written"):
        analyse(tuned, FEW, None, force=True)


@pytest.mark.slow
def test_a_run_that_trained_nothing_has_not_moved(results: Path) -> None:
    found = analyse(trained(results, "method=frozen"), FEW, None)
    for part in found["hidden"].values():
        assert part["cka"] == pytest.approx([1] * 4, abs=1e-9)
        assert part["cosine"] == pytest.approx([1] * 4, abs=1e-9)
    assert [number["value"] for number in found["kl"].values()] == pytest.approx([0, 0, 0], abs=1e-9)
    assert found["winogrande"]["base"] == found["winogrande"]["run"]


def test_the_probes_texts_hold_no_solved_examples(tuned: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[list[int]]] = []
    real = hidden_states

    def listening(lm: Any, layers: Any, texts: Any, advance: Any) -> HiddenStates:
        asked.append(texts)
        return real(lm, layers, texts, advance)

    monkeypatch.setattr(drift, "hidden_states", listening)
    analyse(tuned, FEW, None, force=True)
    tokenizer = load_run([*TINY_RUN]).model.load().tokenizer
    probes, task, again, _ = (["".join(tokenizer.decode(ids)) for ids in texts] for texts in asked)
    assert probes == again
    assert not any("The blank is" in text for text in probes)
    assert all("Premise:" in text and "\n\n" not in text for text in task)


def gdo(*words: str) -> Any:
    return CliRunner().invoke(app, ["analyze", *words], env={"COLUMNS": "90"})


def test_the_command_prints_every_layer_and_kind(tuned: RunResult, results: Path) -> None:
    shown = gdo("drift", tuned.title, *FEW_WORDS, "--results", str(results))
    assert shown.exit_code == 0, shown.output
    found = tuned.analysis("drift")
    assert found is not None
    for layer in range(4):
        assert f"{found['hidden']['task']['cka'][layer]:.4f}" in shown.stdout
    for word in ("at the answer", "general text", "options given, run", "2 shots"):
        assert word in shown.stdout


def test_a_run_without_weights_is_refused_at_once(results: Path) -> None:
    bare = trained(results, "method=sft", "seed=7", "save_weights=false")
    refused = gdo("drift", bare.title, "--results", str(results))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "its weights were not kept" in refused.stderr


FIGURE = """# @package _global_
defaults:
  - override /model: tiny
  - override /data: sample
train: {steps: 4, precision: fp32, batch_size: 4}
evaluation: {every: 2, items: 8, final_items: 8, kl_prompts: 2}
probe: {winogrande: {items: 4, shots: 1}}
sweep: {method: "sft,g_freeze"}
figure: {kind: drift}
"""


@pytest.mark.slow
def test_the_figure_is_drawn_from_the_analyses(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(FIGURE, "utf-8")
    results = tmp_path / "results"
    points = load_grid(["experiment=mine", f"results_dir={results}"], tmp_path)
    runs = [run(config) for _, config in points]
    with pytest.raises(UserError, match="mine: no analysed run of its 2 points"):
        plot_all(["mine"], results, tmp_path)
    found = [analyse(r, FEW, tmp_path) for r in runs]
    png, _, table = plot_all(["mine"], results, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for name, content in zip(("SFT", "G-Freeze"), found, strict=True):
        own = [row for row in rows if row["line"] == name]
        for measure in ("cka", "cosine"):
            for kind in ("probes", "task"):
                drawn = [float(r["value"]) for r in own if (r["measure"], r["where"]) == (measure, kind)]
                assert drawn == content["hidden"][kind][measure]
        kl = {row["where"]: float(row["value"]) for row in own if row["measure"] == "kl"}
        assert kl == {key: number["value"] for key, number in content["kl"].items()}
    base = [row for row in rows if row["line"] == "untouched model"]
    assert {row["layer_or_shots"] for row in base} == {"0", "2"}
