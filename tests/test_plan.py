"""Planning without weights: counts are those of the paper's models, operations those of a real step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.plan import plan_all
from gdo_cli.config.build import load_run
from gdo_cli.experiment import plan as planning
from gdo_cli.experiment import repeats
from gdo_cli.experiment.plan import Plan, counts, plan
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.support.errors import UserError


def tiny_shape(folder: Path, n_layers: int = 2) -> Gemma3TextConfig:
    """An architecture that a step runs through in no time, and its config.json in the folder."""
    shape = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=6,
        layer_types=["full_attention" if i == 4 else "sliding_attention" for i in range(n_layers)],
    )
    (folder / "config.json").write_text(json.dumps(shape.to_dict()))
    return shape


def planned(*overrides: str) -> Plan:
    return plan(load_run([*overrides, "train.batch_size=2"]), length=8)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("model", "layers", "percent"),
    [
        ("gemma3_270m", "all", 26.4),
        ("gemma3_270m", "10", 14.7),
        ("gemma3_1b", "all", 62.1),
        ("gemma3_1b", "10", 23.9),
        ("gemma3_4b", "all", 68.9),
        ("gemma3_4b", "10", 20.3),
    ],
)
def test_g_freeze_trains_the_published_share_of_every_model(model: str, layers: str, percent: float) -> None:
    found = counts(load_run([f"model={model}", "method=g_freeze", f"layers={layers}"]))
    assert round(100 * found.trainable_share, 1) == percent
    assert found.added == found.trainable


def test_the_base_of_each_model_has_its_published_size() -> None:
    sizes = {"gemma3_270m": 268_098_176, "gemma3_1b": 999_885_952, "gemma3_4b": 3_880_263_168}
    assert {name: counts(load_run([f"model={name}", "method=frozen"])).base for name in sizes} == sizes


def test_memory_is_what_the_weights_and_adam_take() -> None:
    item = planned("model=gemma3_270m", "method=g_freeze")
    trained = item.counts.trainable
    assert item.training == 12 * trained  # gradient and two moments, fp32
    norms = 18 * (4 * 640 + 2 * 256) + 640
    start = 2 * trained  # as it was before it trained, in bf16
    assert item.weights == 4 * (trained + norms) + 2 * (268_098_176 - norms) + start


def test_operations_are_those_of_a_real_step(tmp_path: Path) -> None:
    shape = tiny_shape(tmp_path)
    item = planned("model=custom", f"model.path={tmp_path}", "method=sft")
    lm = AnswerLM(Gemma3ForCausalLM(shape), torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        logits = lm(torch.zeros(2, 8, dtype=torch.long), torch.zeros(4, dtype=torch.long))
        F.cross_entropy(logits, torch.zeros(4, dtype=torch.long)).backward()
    assert item.flops == counter.get_total_flops() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("method=sft",),
        ("method=g_freeze", "layers=5"),
        ("method=lora", "layers=[1,4]"),
        pytest.param(("method=zero_block",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_layers_that_are_left_out_cost_what_they_cost_where_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    tiny_shape(tmp_path, n_layers=7)
    words = ("model=custom", f"model.path={tmp_path}", *words)
    left_out: list[nn.Module] = []
    usual = repeats._pass_by

    def pass_by(layer: nn.Module, like: repeats.Representative) -> None:
        left_out.append(layer)
        usual(layer, like)

    monkeypatch.setattr(repeats, "_pass_by", pass_by)
    short = planned(*words)
    assert left_out
    monkeypatch.setattr(repeats, "_kind", lambda layer: (id(layer),))  # each is the only one of its kind
    assert short == planned(*words)


def test_frozen_weights_below_cost_no_backward_pass(tmp_path: Path) -> None:
    tiny_shape(tmp_path, n_layers=6)
    words = "model=custom", f"model.path={tmp_path}", "method=mlp_only"
    few, every = planned(*words, "layers=1"), planned(*words)
    assert few.flops < 0.6 * every.flops
    assert few.activations < 0.6 * every.activations


@pytest.mark.slow
@pytest.mark.parametrize("steps", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_methods_that_do_not_fit_are_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: bool
) -> None:
    tiny_shape(tmp_path, n_layers=1)
    if not steps:  # which decide nothing here
        monkeypatch.setattr(planning, "_one_step", lambda *_: (0, 0))
    plans, refused = plan_all(["model=custom", f"model.path={tmp_path}", "layers=[0]"], 8, None)
    assert {"sft", "frozen"} <= set(refused)
    assert "g_freeze" in {item.method for item in plans}


def test_an_unknown_shape_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="gemma3_1b, gemma3_270m, gemma3_4b"):
        planned("model=custom", "model.path=some/model", "method=sft")


def test_the_command_prints_all_methods_without_network_or_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "matrix_rate", lambda: 1e12)
    shown = CliRunner().invoke(app, ["plan", "model=gemma3_270m", "method=g_freeze", "--length", "8"])
    assert shown.exit_code == 0, shown.output
    assert "26.4" in shown.output
