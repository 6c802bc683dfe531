"""Claims about packed batches: what the padded ones compute, without the padding."""

import copy

import pytest
import torch
from conftest import bits, random_queries, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from gdo_cli.lm import packing, scoring
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import pad
from gdo_cli.lm.packing import can_pack, packed_places
from gdo_cli.lm.scoring import score
from gdo_cli.methods.base import Method
from gdo_cli.methods.grow import AttentionGrow, GFreeze
from gdo_cli.methods.partial import Partial
from gdo_cli.methods.sft import SFT
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.loop import train

QUERIES = random_queries(9)  # 2 to 25 tokens; the tiny Gemma's window is 6
ROWS = [q.context + q.continuation for q in QUERIES]
LENGTHS = [len(row) for row in ROWS]
IDS_BT = pad(ROWS)
PLACES = torch.tensor([b * IDS_BT.shape[1] + t for b, n in enumerate(LENGTHS) for t in range(n)])


def everywhere(model: PreTrainedModel, lengths: list[int] | None) -> Tensor:
    """Logits at every token of every sequence; packed if the lengths are told."""
    with torch.no_grad():
        out: Tensor = AnswerLM(model, torch.float32).eval()(IDS_BT, PLACES, lengths)
    return out


@pytest.mark.parametrize("short", [0, 12, 128])  # all by the fused kernel, some, none
def test_a_packed_batch_gives_the_logits_of_the_padded_one(
    any_model: PreTrainedModel, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_pack(any_model)
    monkeypatch.setattr(packing, "SHORT", short)
    packed, padded = everywhere(any_model, LENGTHS), everywhere(any_model, None)
    assert not torch.equal(packed, padded)  # or the one was the other: sums are ordered differently
    torch.testing.assert_close(packed, padded, rtol=0, atol=3e-6)


def test_no_token_of_the_padding_reaches_the_decoder(gemma3: PreTrainedModel) -> None:
    seen: list[tuple[int, ...]] = []
    gemma3.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    everywhere(gemma3, LENGTHS)
    assert seen == [(1, sum(LENGTHS))]


@pytest.mark.parametrize(
    "method", [GFreeze(), AttentionGrow(grow="heads"), AttentionGrow(grow="head_dim")], ids=lambda m: m.label
)
@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_grown_models_pack_too(family: str, method: Method) -> None:
    grown = method.prepare(tiny_model(family), None)
    torch.testing.assert_close(everywhere(grown, LENGTHS), everywhere(grown, None), rtol=0, atol=3e-6)


@pytest.mark.parametrize("method", [SFT(), GFreeze(), Partial("mlp")], ids=lambda m: m.label)
def test_training_on_packed_batches_is_training_on_padded_ones(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(lr=1e-3, steps=4, batch_size=3, precision="fp32", adam_epsilon=1e-3)
    packed = method.prepare(tiny_model("gemma3"), None)
    padded, start = copy.deepcopy(packed), bits(packed)
    losses = [step.loss for step in train(AnswerLM(packed, torch.float32), QUERIES, config, 0, 1)]
    monkeypatch.setattr(scoring, "can_pack", lambda model: False)
    slow = [step.loss for step in train(AnswerLM(padded, torch.float32), QUERIES, config, 0, 1)]
    assert losses == pytest.approx(slow, abs=2e-6)
    end, twin = bits(packed), bits(padded)
    assert any(not torch.equal(end[name], start[name]) for name in end)
    for name, tensor in end.items():
        # A thousandth of what a step may move a weight; the large ε keeps Adam from magnifying rounding.
        torch.testing.assert_close(tensor, twin[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("short", [0, 12, 128])
def test_scores_are_the_same_packed_and_padded(
    gemma3: PreTrainedModel, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = AnswerLM(gemma3, torch.float32).eval()
    monkeypatch.setattr(packing, "SHORT", short)
    packed = score(lm, QUERIES, 64)
    monkeypatch.setattr(scoring, "can_pack", lambda model: False)
    for fast, slow in zip(packed, score(lm, QUERIES, 64), strict=True):
        assert fast.argmax == slow.argmax
        assert fast.logprobs == pytest.approx(slow.logprobs, abs=1e-5)


def test_a_model_with_attention_of_its_own_kind_is_padded(gemma3: PreTrainedModel) -> None:
    gemma3.set_attn_implementation("eager")
    assert not can_pack(gemma3)
    torch.testing.assert_close(everywhere(gemma3, LENGTHS), everywhere(gemma3, None), rtol=0, atol=0)


def test_the_models_attention_is_put_back_after_every_pass(gemma3: PreTrainedModel) -> None:
    before = gemma3.config._attn_implementation
    everywhere(gemma3, LENGTHS)
    assert gemma3.config._attn_implementation == before
    with pytest.raises(IndexError):
        AnswerLM(gemma3, torch.float32)(torch.full((2, 3), 10**6), torch.tensor([0]), [3, 3])
    assert gemma3.config._attn_implementation == before


def test_places_move_up_by_the_padding_before_them() -> None:
    places = packed_places(torch.tensor([0, 2, 5, 6, 12]), width=5, lengths=[3, 2, 4])
    assert places.tolist() == [0, 2, 3, 4, 7]
