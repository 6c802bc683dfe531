"""Steering: hooks that act, where and only where they should; zero-shot scores against generation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BOS, TINY_RUN, random_ids, random_queries, tiny_model
from torch import Tensor
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.analyze import skeleton
from gdo_cli.commands.analyze.fv import FunctionVectors, read_vectors
from gdo_cli.commands.analyze.skeleton import analyse
from gdo_cli.commands.analyze.steer import Steering, added, zero_shot
from gdo_cli.config.build import load_run
from gdo_cli.experiment.run import run
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.lm.generation import generate
from gdo_cli.lm.tokens import Encoded, Encoder, Ends
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError

FAMILIES = ["gemma3", "llama", "phi", "opt", "gemma3_multimodal"]
DIRECTION = torch.randn(32, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[BOS, *random_ids(11).tolist()]])


def answering(model: Any) -> AnswerLM:
    lm = AnswerLM(model.requires_grad_(False), torch.float32)
    lm.eval()
    return lm


@pytest.fixture
def never(word_encoder: Encoder) -> Ends:
    """Nothing ends an answer."""
    return Ends(word_encoder.tokenizer, frozenset())


@torch.no_grad()
def logits(lm: AnswerLM) -> Tensor:
    """At every position, (T, V)."""
    found: Tensor = lm(IDS, torch.arange(IDS.shape[1]))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_zero_vector_changes_no_bit_and_another_one_all_that_sees_it(family: str) -> None:
    model = tiny_model(family)
    lm, layers = answering(model), find_decoder(model).layers
    before = logits(lm)
    for layer in layers:
        with added(layer, torch.zeros(32), 7):
            assert torch.equal(logits(lm), before)
        with added(layer, DIRECTION, 7):
            after = logits(lm)
        same = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        assert same[:7] == [True] * 7  # what comes before sees nothing of it
        assert not same[7]
        last = layer is layers[-1]
        assert same[8:] == [last] * 4  # what comes after sees it, through the attention of later layers
    assert torch.equal(logits(lm), before)  # the hooks are gone
    assert not any(module._forward_hooks for module in model.modules())


def test_the_hook_is_gone_after_an_error_too() -> None:
    model = tiny_model("gemma3")
    layer = find_decoder(model).layers[1]
    with pytest.raises(RuntimeError, match="on the way"), added(layer, torch.ones(32), 0):
        raise RuntimeError("on the way")
    assert not layer._forward_hooks


def test_the_vector_is_added_to_the_residual_stream_behind_the_layer() -> None:
    """Against the next layer's own input."""
    model = tiny_model("gemma3")
    lm, layers = answering(model), find_decoder(model).layers
    inputs: list[Tensor] = []
    layers[2].register_forward_pre_hook(lambda m, args: inputs.append(args[0][0].clone()))
    logits(lm)
    with added(layers[1], DIRECTION, 4):
        logits(lm)
    torch.testing.assert_close(inputs[1][4] - inputs[0][4], DIRECTION)
    rest = [i for i in range(12) if i != 4]
    assert torch.equal(inputs[1][rest], inputs[0][rest])


def test_what_is_added_is_measured_against_what_it_is_added_to(never: Ends) -> None:
    model = tiny_model("gemma3")
    lm, layers = answering(model), find_decoder(model).layers
    queries = random_queries(4)
    states: list[Tensor] = []
    handle = layers[2].register_forward_pre_hook(lambda m, args: states.append(args[0][0].clone()))
    zero_shot(lm, queries, never)
    handle.remove()
    lengths = [s[len(q.context) - 1].norm() for s, q in zip(states, queries, strict=True)]
    found = zero_shot(lm, queries, never, (layers[1], 3 * DIRECTION))
    expected = 3 * DIRECTION.norm() / torch.stack(lengths).mean()
    assert found["relative_length"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("strength", [0.0, 5.0])
def test_exact_match_is_that_of_generation_with_the_hook_on_the_prompt_alone(
    strength: float, never: Ends
) -> None:
    model: Any = tiny_model("gemma3")
    model.generation_config.eos_token_id = None  # always two tokens
    lm, layer = answering(model), find_decoder(model).layers[1]
    steering = (layer, strength * DIRECTION)

    def steer_prompt(_: Any, __: Any, out: Tensor) -> Tensor | None:
        if out.shape[1] == 1:  # a token that has been generated
            return None
        return torch.cat([out[:, :-1], out[:, -1:] + steering[1]], dim=1)

    for query in random_queries(6):
        context = [BOS, *query.context]  # two tokens or more
        handle = layer.register_forward_hook(steer_prompt)
        made = model.generate(
            input_ids=torch.tensor([context]), max_new_tokens=2, do_sample=False, pad_token_id=0
        )
        handle.remove()
        first, second = made[0, len(context) :].tolist()
        for answer, end, exact in (
            (first, second, 1.0),
            ((first + 1) % 128, second, 0.0),
            (first, (second + 1) % 128, 0.0),
        ):
            found = zero_shot(
                lm, [Encoded(context, [answer])], replace(never, stops=frozenset([end])), steering
            )
            assert found["exact_match"] == exact


def test_without_steering_exact_match_and_probability_are_the_models_own(word_encoder: Encoder) -> None:
    model: Any = tiny_model("llama", noise=0.3)
    lm, ends = answering(model), word_encoder.answer_ends
    queries = random_queries(12, answer=1)
    texts = generate(lm, word_encoder, [q.context for q in queries], ends, 2, 512)
    expected = [ends.parse(q.continuation) == t for q, t in zip(queries, texts, strict=True)]
    found = zero_shot(lm, queries, ends)
    assert found["exact_match"] == pytest.approx(np.mean(expected))
    with torch.no_grad():
        own = [
            float(model(input_ids=torch.tensor([q.context])).logits[0, -1].softmax(-1)[q.continuation[0]])
            for q in queries
        ]
    assert found["probability"] == pytest.approx(np.mean(own), rel=1e-5)
    assert found["probability_se"] == pytest.approx(np.std(own, ddof=1) / 12**0.5, rel=1e-4)


# ----------------------------------------------------------------------------------------- whole runs

FEW = FunctionVectors(shots=2, prompts=6, effect_prompts=4, heads=3)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def tuned(results: Path) -> RunResult:
    plain = [word for word in TINY_RUN if not word.startswith("probe")]
    words = ["probe=[]", "method=sft", "train.lr=1e-2", f"results_dir={results}"]
    return run(load_run([*plain, *words]))


def gdo(*words: str) -> Any:
    return CliRunner().invoke(app, ["analyze", "steer", *words], env={"COLUMNS": "90"})


def test_without_function_vectors_it_says_how_to_get_them(tuned: RunResult, results: Path) -> None:
    refused = gdo(tuned.title, "--layer", "1", "--results", str(results))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"measure them: gdo analyze fv {tuned.title}" in refused.stderr


@pytest.mark.slow
def test_every_vector_is_tried_behind_every_layer_and_kept(
    tuned: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(tuned, FEW, None)
    found = analyse(tuned, Steering((0, 2), 3.0, prompts=4), None)
    assert found == tuned.analysis("steer") == json.loads(json.dumps(found))
    rows = [(row["model"], row["layer"], row["added"]) for row in found["effects"]]
    own, theirs, chance = "run's vector", "base's vector", "random vector"
    assert rows == [
        ("base", None, "nothing"),
        *(("base", layer, name) for layer in (0, 2) for name in (theirs, chance)),
        ("run", None, "nothing"),
        *(("run", layer, name) for layer in (0, 2) for name in (own, theirs, chance)),
    ]
    by_row = {row: effect["probability"] for row, effect in zip(rows, found["effects"], strict=True)}
    assert len(set(by_row.values())) == len(rows)  # each of them does something else
    vectors = read_vectors(tuned)
    assert found["vector_lengths"]["run"] == pytest.approx(float(np.linalg.norm(vectors["run"])))
    with pytest.raises(UserError, match=r"steer.json was made with layers=\[0, 2\], scale=3.0; --force"):
        analyse(tuned, Steering((1,), 0.0, prompts=4), None)
    assert tuned.analysis("steer") == found
    still = analyse(tuned, Steering((1,), 0.0, prompts=4), None, force=True)
    for who in ("base", "run"):
        own_rows = [row["probability"] for row in still["effects"] if row["model"] == who]
        assert set(own_rows) == {by_row[who, None, "nothing"]}
    monkeypatch.setattr(skeleton, "Opened", lambda *_: pytest.fail("measured again"))
    assert analyse(tuned, Steering((1,), 0.0, prompts=4), None) == still


def test_a_layer_that_does_not_exist_is_refused(tuned: RunResult) -> None:
    analyse(tuned, FEW, None)
    with pytest.raises(UserError, match="--layer 9: the model has layers 0 to 3"):
        analyse(tuned, Steering((1, 9)), None, force=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": float("nan")}, "--scale nan: must be a finite number"),
        ({"prompts": 100_000}, r"--prompts 100000: the validation split has \d+ questions"),
    ],
)
def test_what_would_measure_nothing_is_refused(
    tuned: RunResult, options: dict[str, Any], message: str
) -> None:
    analyse(tuned, FEW, None)
    with pytest.raises(UserError, match=message):
        analyse(tuned, Steering((1,), **options), None, force=True)


@pytest.mark.slow
def test_the_command_prints_every_row(tuned: RunResult, results: Path) -> None:
    analyse(tuned, FEW, None)
    words = ["--layer", "1", "--scale", "2", "--prompts", "3", "--force", "--results", str(results)]
    shown = gdo(tuned.title, *words)
    assert shown.exit_code == 0, shown.output
    for line in ("nothing", "base's vector", "run's vector", "random vector", "scale 2"):
        assert line in shown.stdout
    table, _, note = shown.stdout.partition("length:")
    assert len(table.splitlines()) == 2 + 7  # headings, rows
    assert "probability" in note
