"""Claims about trading time for memory: parts of a token budget and layers computed again."""

import copy
from itertools import pairwise

import pytest
import torch
from conftest import bits, random_queries, tiny_model
from torch import nn
from transformers import PreTrainedModel

from gdo_cli.lm import answer_lm
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.methods.base import Method
from gdo_cli.methods.grow import GFreeze
from gdo_cli.methods.sft import SFT
from gdo_cli.training.batches import batches, step_batches
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.loop import Step, train

QUERIES = random_queries(9)


def trained(model: PreTrainedModel, **settings: object) -> list[Step]:
    values = {"lr": 1e-3, "steps": 6, "batch_size": 4, "adam_epsilon": 1e-3} | settings
    config = TrainConfig(**values)  # type: ignore[arg-type]
    return list(train(AnswerLM(model, torch.float32), QUERIES, config, 0, 1))


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, weight), twin in zip(bits(one).items(), bits(other).values(), strict=True):
        torch.testing.assert_close(weight, twin, rtol=0, atol=1e-6, msg=name)


@pytest.mark.few(2)
@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_token_budget_changes_no_step(budget: int, accumulation: int) -> None:
    whole, parts = SFT().prepare(tiny_model("gemma3"), None), SFT().prepare(tiny_model("gemma3"), None)
    expected = trained(whole, gradient_accumulation_steps=accumulation)
    found = trained(parts, gradient_accumulation_steps=accumulation, token_budget=budget)
    assert [s.tokens for s in found] == [s.tokens for s in expected]
    assert [s.loss for s in found] == pytest.approx([s.loss for s in expected], abs=1e-5)
    assert_same(parts, whole)


def test_parts_are_of_similar_length_and_within_the_budget() -> None:
    config = TrainConfig(batch_size=8, gradient_accumulation_steps=2, token_budget=60)
    (parts,) = step_batches(batches(QUERIES, 8, 0), config, 1)
    assert sum(len(part.lengths) for part in parts) == 16
    assert all(part.input_ids_BT.numel() <= 60 for part in parts)
    longest = [max(part.lengths) for part in parts]
    assert longest == sorted(longest, reverse=True)
    assert all(max(b.lengths) <= min(a.lengths) for a, b in pairwise(parts))


@pytest.mark.few(2)
@pytest.mark.parametrize("method", [SFT(), GFreeze()], ids=lambda m: m.label)
@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_layers_computed_again_train_the_same(
    family: str, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Layers that are computed again run whole; the other side does too, so that not a bit differs.
    monkeypatch.setattr(answer_lm, "_last_mlp", lambda model: None)
    plain = method.prepare(tiny_model(family), None)
    again = copy.deepcopy(plain)
    runs = []
    list(find_decoder(again).layers)[1].get_submodule("mlp").register_forward_pre_hook(
        lambda *_: runs.append(1)
    )
    expected = trained(plain)
    assert [s.loss for s in trained(again, gradient_checkpointing=True)] == [s.loss for s in expected]
    assert_same(again, plain)
    assert len(runs) == 2 * 6
    again(torch.tensor([[5, 6]]))  # as it was before
    assert len(runs) == 2 * 6 + 1
