"""Planning without weights: counts are those of the paper's models, operations those of a real step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.plan import plan_all
from gdo_cli.config.build import load_run
from gdo_cli.experiment import plan as planning
from gdo_cli.experiment.plan import Plan, plan
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.support.errors import UserError


def planned(*overrides: str) -> Plan:
    return plan(load_run([*overrides, "train.batch_size=2"]), length=8)


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
    counts = planned(f"model={model}", "method=g_freeze", f"layers={layers}").counts
    assert round(100 * counts.trainable_share, 1) == percent
    assert counts.added == counts.trainable


def test_the_base_of_each_model_has_its_published_size() -> None:
    sizes = {"gemma3_270m": 268_098_176, "gemma3_1b": 999_885_952, "gemma3_4b": 3_880_263_168}
    assert {name: planned(f"model={name}", "method=frozen").counts.base for name in sizes} == sizes


def test_memory_is_what_the_weights_and_adam_take() -> None:
    item = planned("model=gemma3_270m", "method=g_freeze")
    trained = item.counts.trainable
    assert item.training == 12 * trained  # gradient and two moments, fp32
    norms = 18 * (4 * 640 + 2 * 256) + 640
    start = 2 * trained  # as it was before it trained, in bf16
    assert item.weights == 4 * (trained + norms) + 2 * (268_098_176 - norms) + start


def test_operations_are_those_of_a_real_step(tmp_path: Path) -> None:
    shape = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
    )
    (tmp_path / "config.json").write_text(json.dumps(shape.to_dict()))
    item = planned("model=custom", f"model.path={tmp_path}", "method=sft")
    lm = AnswerLM(Gemma3ForCausalLM(shape), torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        logits = lm(torch.zeros(2, 8, dtype=torch.long), torch.zeros(4, dtype=torch.long))
        F.cross_entropy(logits, torch.zeros(4, dtype=torch.long)).backward()
    assert item.flops == counter.get_total_flops() > 0


def test_frozen_weights_below_cost_no_backward_pass() -> None:
    few = planned("model=gemma3_270m", "method=mlp_only", "layers=2")
    every = planned("model=gemma3_270m", "method=mlp_only")
    assert few.flops < 0.6 * every.flops
    assert few.activations < 0.6 * every.activations


def test_methods_that_do_not_fit_are_listed_with_the_reason() -> None:
    plans, refused = plan_all(["model=gemma3_270m", "layers=[0]"], 8, None)
    assert {"sft", "frozen"} <= set(refused)
    assert "g_freeze" in {item.method for item in plans}


def test_an_unknown_shape_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="gemma3_1b, gemma3_270m, gemma3_4b"):
        planned("model=custom", "model.path=some/model", "method=sft")


def test_the_command_prints_all_methods_without_network_or_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "matrix_rate", lambda: 1e12)
    shown = CliRunner().invoke(app, ["plan", "model=gemma3_4b", "method=g_freeze", "--length", "8"])
    assert shown.exit_code == 0, shown.output
    assert "68.9" in shown.output
