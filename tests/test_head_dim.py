"""Wider attention heads compute what the base computes, and train what is new."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import bits, changed, descend, logits, perturb, random_ids, tiny_model, trainable, twin
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from gdo_cli.growth.folding import average, fold, natural_form, widen
from gdo_cli.growth.head_dim import repeat_halves, widen_heads
from gdo_cli.growth.stock_heads import to_stock_heads
from gdo_cli.lm.decoder import find_decoder
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
    assert all(".grow." in name or "wider_" in name for name in names)
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


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_heads_compute_the_same_in_float64(family: str, k: int) -> None:
    model = twin(tiny_model(family)).eval()
    widen_heads(find_decoder(model).layers[1].self_attn, k)
    perturb(model.double(), 0.05, only="wider_")
    before, narrow = logits(model, IDS), frequencies(model)
    to_stock_heads(model)
    for name, listed in frequencies(model).items():
        # A reciprocal's reciprocal in fp32, as transformers computes it: one unit in the last place.
        torch.testing.assert_close(listed, narrow[name].repeat(k).to(listed), rtol=1.2e-7, atol=0)
        listed.copy_(narrow[name].repeat(k))
    bound = 1e-9 if family == "llama" else 2e-6  # Gemma's norms compute in fp32
    torch.testing.assert_close(logits(model, IDS), before, rtol=bound, atol=bound)


def frequencies(model: nn.Module) -> dict[str, Tensor]:
    return {n: b for n, b in model.named_buffers() if "rotary_emb" in n and n.endswith("inv_freq")}


ROPES = {
    "linear": {"factor": 8.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
}


@pytest.mark.parametrize("kind", ROPES)
def test_a_checkpoint_keeps_every_kind_of_rotary_positions(kind: str, tmp_path: Path) -> None:
    rope = {"rope_parameters": {"rope_type": kind, "rope_theta": 5e5} | ROPES[kind]}
    assert_a_checkpoint_keeps(AttentionGrow(grow="head_dim"), small("llama", **rope), tmp_path)


@pytest.mark.parametrize("grow", ["heads", "head_dim"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "granite"])
def test_a_checkpoint_keeps_scale_and_width_wherever_a_family_has_them(
    family: str, grow: str, tmp_path: Path
) -> None:
    """No head_dim in the configuration; a norm behind the queries; a scale of its own."""
    options: dict[str, Any] = {"granite": {"attention_multiplier": 0.3}, "qwen3": {"head_dim": 8}}
    assert_a_checkpoint_keeps(AttentionGrow(grow=grow), small(family, **options.get(family, {})), tmp_path)


def small(family: str, **options: Any) -> Any:
    shape = copy.deepcopy(tiny_model("llama").config.to_dict())
    kept = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = AutoConfig.for_model(
        family, **{key: shape[key] for key in kept}, **ids, num_key_value_heads=2, **options
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    perturb(model, 0.05)
    return model


def assert_a_checkpoint_keeps(method: AttentionGrow, base: Any, folder: Path) -> None:
    grown = method.prepare(base, [0, 2])
    for parameter in trainable(grown).values():
        perturb(nn.ParameterList([parameter]), 0.05)
    before = logits(grown, IDS)
    widen(grown).save_pretrained(folder)  # type: ignore[operator]
    reloaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(reloaded, IDS), before, rtol=1e-4, atol=1e-5)


def test_positions_that_depend_on_the_length_are_refused() -> None:
    model = small("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0})
    grown: Any = AttentionGrow(grow="head_dim").prepare(model, None)
    with pytest.raises(ValueError, match="depend on the length"):
        widen(grown)


@pytest.mark.parametrize("form", [fold, average])
@pytest.mark.parametrize("with_mlp", [False, True])
def test_wider_heads_have_one_form_only(with_mlp: bool, form: Any) -> None:
    grown = AttentionGrow(grow="head_dim", with_mlp=with_mlp).prepare(tiny_model("llama"), [1])
    assert natural_form(grown) == "grown"
    with pytest.raises(ValueError, match="neither fold nor average"):
        form(grown)


def test_norms_over_all_heads_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="spans all heads"):
        AttentionGrow(grow="head_dim").prepare(small("olmo2"), None)


def test_attention_without_separate_projections_is_refused() -> None:
    with pytest.raises(ValueError, match="q_proj"):
        widen_heads(nn.Linear(2, 2), 2)
