"""Wider attention heads compute what the base computes, and train what is new."""

from __future__ import annotations

import pytest
import torch
from conftest import bits, changed, descend, logits, random_ids, tiny_model, trainable, twin
from torch import nn

from gdo_cli.growth.architecture import find_decoder
from gdo_cli.growth.head_dim import repeat_halves, widen_heads
from gdo_cli.methods.grow import AttentionGrow

IDS = random_ids(2, 24)
FAMILIES = ["gemma3", "llama", "gemma3_multimodal"]


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_wider_heads_compute_the_same_in_float64(family: str, k: int) -> None:
    model = twin(tiny_model(family)).eval()
    before = logits(model, IDS)
    for layer in find_decoder(model).layers:
        widen_heads(layer.self_attn, k)
    model.double()
    # Sums over k copies add in another order: a few units in float64's last place; Gemma's norms
    # compute in fp32 whatever the input.
    bound = 1e-11 if family == "llama" else 2e-6
    torch.testing.assert_close(logits(model, IDS), before, rtol=bound, atol=bound)


@pytest.mark.parametrize("with_mlp", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_method_keeps_the_function_and_trains_only_what_is_new(family: str, with_mlp: bool) -> None:
    model = tiny_model(family).eval()
    before = logits(model, IDS)
    prepared = AttentionGrow(grow="head_dim", with_mlp=with_mlp).prepare(model, [0, 2])
    torch.testing.assert_close(logits(prepared, IDS), before, rtol=1e-4, atol=1e-4)
    names = set(trainable(prepared))
    assert names
    assert all("grow_" in name for name in names)
    assert any("mlp" in name for name in names) == with_mlp
    saved = bits(prepared)
    descend(prepared, torch.optim.AdamW(trainable(prepared).values(), lr=1e-3), steps=2)
    assert changed(saved, prepared) == names


def test_concatenated_copies_would_break_rotary_positions() -> None:
    """The plain layout [x x] is wrong, which is why copies are interleaved by halves."""
    x = torch.arange(8.0)
    assert repeat_halves(x, 2).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    rotated = torch.cat([-x[4:], x[:4]])
    wide = repeat_halves(x, 2)
    rotated_wide = torch.cat([-wide[8:], wide[:8]])
    assert torch.equal(rotated_wide, repeat_halves(rotated, 2))
    plain = torch.cat([x, x])
    assert not torch.equal(torch.cat([-plain[8:], plain[:8]]), torch.cat([rotated, rotated]))


def test_attention_without_separate_projections_is_refused() -> None:
    with pytest.raises(ValueError, match="q_proj"):
        widen_heads(nn.Linear(2, 2), 2)
