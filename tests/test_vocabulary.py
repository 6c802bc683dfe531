"""Claims about embedding and head: low memory, low cost, and what autograd alone would compute."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from conftest import bits, random_queries, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.lm import answer_lm
from gdo_cli.lm import lm_head as vocabulary
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.device import hold_weights
from gdo_cli.lm.lm_head import Head
from gdo_cli.training.batches import collate
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.loop import train
from gdo_cli.training.penalties import Divergence

BATCH = collate(random_queries(6), 1, "answer")
IDS_BT, TARGETS_N = BATCH.input_ids_BT, BATCH.targets_N


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Autograd makes every gradient, within the context."""
    with monkeypatch.context() as patch:
        patch.setattr(Head, "_keeps_gradient", lambda *_: False)
        yield patch


def gradients(lm: AnswerLM, passes: int = 1) -> dict[str, Tensor]:
    for _ in range(passes):
        with lm.autocast():
            hidden = lm.hidden(IDS_BT, BATCH.positions_N, lengths=BATCH.lengths)
        lm.loss(hidden, TARGETS_N).backward()
    return {name: p.grad for name, p in lm.named_parameters() if p.grad is not None}


def full(family: str, dtype: torch.dtype) -> AnswerLM:
    model = tiny_model(family).requires_grad_(True)
    hold_weights(model, dtype)
    return AnswerLM(model, dtype)


@pytest.mark.few(10)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [1000, 5], ids=["whole", "in pieces"])
@pytest.mark.parametrize("passes", [1, 2])
def test_gradients_kept_in_place_are_those_of_autograd(
    family: str,
    dtype: torch.dtype,
    tolerance: float,
    rows: int,
    passes: int,
    slow: pytest.MonkeyPatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_lm, "LOSS_ROWS", rows)
    expected = gradients(full(family, dtype), passes)
    slow.undo()
    monkeypatch.setattr(answer_lm, "LOSS_ROWS", rows)
    found = gradients(full(family, dtype), passes)
    assert found.keys() == expected.keys()
    largest = max(gradient.norm().item() for gradient in expected.values())
    for name, gradient in found.items():
        # What cancels to nothing (a key's bias) is rounding alone, so it is measured against the others.
        scale = max(expected[name].norm().item(), 1e-2 * largest)
        # A bf16 product rounds its gradient to 8 bits, which the one kept in place does not.
        assert (gradient - expected[name]).norm() <= tolerance * scale, name


def test_no_gradient_of_the_vocabulary_is_made_afresh(gemma3: PreTrainedModel) -> None:
    lm = AnswerLM(gemma3.requires_grad_(True), torch.float32)
    weight = gemma3.get_input_embeddings().weight
    places = set()
    for _ in range(3):
        gradients(lm)
        assert weight.grad is not None
        places.add(weight.grad.data_ptr())
        weight.grad = None
    assert len(places) == 1


def test_a_second_step_starts_from_a_gradient_of_zero(gemma3: PreTrainedModel) -> None:
    lm = AnswerLM(gemma3.requires_grad_(True), torch.float32)
    once = gradients(lm)["model.model.embed_tokens.weight"].clone()
    lm.zero_grad(set_to_none=True)
    assert torch.equal(gradients(lm)["model.model.embed_tokens.weight"], once)


def test_training_everything_is_the_same_with_and_without(slow: pytest.MonkeyPatch) -> None:
    def trained() -> dict[str, Tensor]:
        model = tiny_model("gemma3").requires_grad_(True)
        config = TrainConfig(lr=1e-3, steps=4, batch_size=3, gradient_accumulation_steps=2, adam_epsilon=1e-3)
        assert len(list(train(AnswerLM(model, torch.float32), random_queries(8), config, 0, 1))) == 4
        return bits(model)

    expected = trained()
    slow.undo()
    for name, weight in trained().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


def test_others_that_reduce_gradients_get_autograds(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = nn.Linear(4, 9, bias=False)
    assert Head(torch.float32)._keeps_gradient(linear)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert not Head(torch.float32)._keeps_gradient(linear)


def test_the_cast_head_follows_its_weight() -> None:
    linear, head = nn.Linear(4, 9, bias=False), Head(torch.bfloat16)
    hidden = torch.randn(3, 4)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        loss = head(hidden, linear).float().square().sum()
        assert torch.equal(head.weight(linear.weight), linear.weight.detach().bfloat16())
        loss.backward()
        optimizer.step()  # fused: autograd's count of changes does not see it
        head.forget()
        optimizer.zero_grad()
    linear.weight.detach().mul_(2)  # seen without being told
    assert torch.equal(head.weight(linear.weight), linear.weight.detach().bfloat16())


def test_a_frozen_vocabulary_is_held_once_in_the_compute_dtype(family: str) -> None:
    model = tiny_model(family).bfloat16().requires_grad_(False)
    hold_weights(model, torch.bfloat16)
    lm = AnswerLM(model, torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert lm.head_weight().data_ptr() == model.get_output_embeddings().weight.data_ptr()


def test_a_vocabulary_that_rounding_would_change_stays_as_it_is(gemma3: PreTrainedModel) -> None:
    before = gemma3.get_input_embeddings().weight.clone()
    hold_weights(gemma3.requires_grad_(False), torch.bfloat16)
    assert torch.equal(gemma3.get_input_embeddings().weight, before)


def test_rows_of_a_low_embedding_come_as_from_one_in_fp32(family: str) -> None:
    model = tiny_model(family).bfloat16()
    low = model.get_input_embeddings()
    high = copy.deepcopy(low).float()
    expected = high(IDS_BT)
    plain = low(IDS_BT).float()
    vocabulary.look_up_in_fp32(low)
    assert low(IDS_BT).dtype == torch.float32
    assert torch.equal(low(IDS_BT), expected)
    if hasattr(low, "embed_scale"):
        assert not torch.equal(plain, expected)  # √D itself is rounded in bf16


def test_a_copied_model_looks_up_its_own_rows(gemma3: PreTrainedModel) -> None:
    hold_weights(gemma3.requires_grad_(False), torch.bfloat16)
    teacher = Divergence(AnswerLM(gemma3, torch.bfloat16), 1.0, "answer").base.model
    before = teacher.get_input_embeddings()(IDS_BT)
    gemma3.get_input_embeddings().weight.data.zero_()
    assert torch.equal(teacher.get_input_embeddings()(IDS_BT), before)
    assert F.relu(before).sum() > 0
