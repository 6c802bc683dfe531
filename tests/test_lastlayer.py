"""Claims about the last layer's MLP: computed where its output is read, and there as ever."""

from __future__ import annotations

import pytest
import torch
from conftest import random_queries, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.lm import answer_lm, scoring
from gdo_cli.lm.answer_lm import AnswerLM, last_mlp_at
from gdo_cli.methods.base import Method
from gdo_cli.methods.blocks import ZeroBlock
from gdo_cli.methods.grow import GFreeze
from gdo_cli.methods.partial import Partial
from gdo_cli.methods.sft import SFT
from gdo_cli.training.batches import collate

BATCH = collate(random_queries(6), 1, "answer")


def passes(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states and gradients with the last MLP where it is read, and with all of it."""
    found = []
    for whole in (False, True):
        with monkeypatch.context() as patch:
            if whole:
                patch.setattr(answer_lm, "_last_mlp", lambda model: None)
            model.zero_grad()
            lm = AnswerLM(model, torch.float32)
            hidden = lm.hidden(BATCH.input_ids_BT, BATCH.positions_N, lengths=BATCH.lengths)
            lm.loss(hidden, BATCH.targets_N).backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found.append([hidden.detach(), *gradients])
    return found[0], found[1]


@pytest.mark.few(14)
@pytest.mark.parametrize(
    "method", [SFT(), GFreeze(), Partial("mlp"), ZeroBlock()], ids=lambda method: type(method).__name__
)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_what_is_read_and_its_gradients_are_those_of_the_whole(
    family: str, method: Method, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        model = method.prepare(tiny_model(family), None)
    except ValueError as error:
        pytest.skip(str(error))
    if not packed:
        monkeypatch.setattr(scoring, "can_pack", lambda model: False)
    for few, all_ in zip(*passes(model, monkeypatch), strict=True):
        torch.testing.assert_close(few, all_, rtol=1e-4, atol=1e-4 * float(all_.abs().max()))


def test_the_last_mlp_sees_no_other_place(gemma3: PreTrainedModel) -> None:
    seen: dict[str, int] = {}
    layers = gemma3.get_decoder().layers
    for name, layer in (("last", layers[-1]), ("first", layers[0])):
        layer.mlp.up_proj.register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0].shape[:-1].numel()})
        )
    AnswerLM(gemma3, torch.float32).hidden(BATCH.input_ids_BT, BATCH.positions_N, lengths=BATCH.lengths)
    assert seen["last"] == len(BATCH.positions_N.unique())
    assert seen["first"] == sum(BATCH.lengths)


def test_nothing_is_left_on_the_model(gemma3: PreTrainedModel) -> None:
    mlp = gemma3.get_decoder().layers[-1].mlp
    with pytest.raises(IndexError), last_mlp_at(gemma3, torch.tensor([9])):
        gemma3(torch.arange(5)[None])
    assert not mlp._forward_hooks
    assert not mlp._forward_pre_hooks


def test_an_mlp_of_another_kind_computes_all(gemma3: PreTrainedModel) -> None:
    class Experts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 5
            return x

    gemma3.get_decoder().layers[-1].mlp = Experts()
    with last_mlp_at(gemma3, torch.tensor([2])):
        gemma3(torch.arange(5)[None])
