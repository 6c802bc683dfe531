"""Growth of families by itself: exact, kept in files, loaded by plain transformers, trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import logits, perturb, random_ids
from families import by_family, of_family
from peft import PeftModel, get_peft_model
from transformers import (
    BartForConditionalGeneration,
    MBartForConditionalGeneration,
    MT5ForConditionalGeneration,
    T5ForConditionalGeneration,
)

from gdo_cli.growth import GrowConfig
from gdo_cli.growth.folding import widen

IDS = random_ids(2, 7)
# Some of each way in which MLPs are named, held and told apart; conftest's own four are in test_growth.py.
GROWN = (
    *("cohere", "cohere2", "doge", "gemma2", "granite", "hyperclovax", "nemotron", "olmo2"),  # gate, up, down
    *("lfm2",),  # w1 and w3, w2; a convolution in the place of some attention
    *("glm", "moshi", "phi3"),  # gate and up in one
    *("bloom", "falcon", "gpt_neox"),  # to four times the width and back
    *("codegen", "gpt2", "gptj", "gpt_bigcode", "starcoder2", "mpt", "xglm"),
    *(
        "mixtral",
        "olmoe",
        "qwen3_moe",
        "granitemoe",
        "gpt_oss",
    ),  # experts; gpt-oss with biases, gate and up mixed
    *("deepseek_v3", "qwen2_moe", "afmoe"),  # experts, shared ones beside them, dense layers
    *("gemma3n_text", "gemma4_text"),  # layers of several widths
)
# Whose configuration has no word for it, or one that does not decide it.
NO_WIDTH = ("bloom", "mpt")
# It takes mean and deviation over all units of an MLP, and twice as many are added up in another order.
SPARSE = ("gemma3n_text",)


def grown(name: str, **fields: Any) -> PeftModel:
    return get_peft_model(of_family(name), GrowConfig(task_type="CAUSAL_LM", **fields))


@pytest.mark.parametrize("mode", ["new", "columns"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@by_family(GROWN)
def test_a_family_grows_by_itself_bit_for_bit(name: str, dtype: torch.dtype, mode: str) -> None:
    base = of_family(name).to(dtype)
    before = logits(base, IDS)
    model = get_peft_model(base, GrowConfig(task_type="CAUSAL_LM", trainable=mode))
    if name in SPARSE:
        rounding = 1e-5 if dtype is torch.float32 else 0.05
        torch.testing.assert_close(logits(model, IDS), before, rtol=rounding, atol=rounding)
    else:
        assert torch.equal(logits(model, IDS), before)


@by_family(GROWN)
def test_a_step_of_training_moves_all_that_is_new(name: str) -> None:
    model = grown(name)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert trained
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())


@pytest.mark.few(5)
@pytest.mark.parametrize("layers", [None, 1])
@by_family(GROWN)
def test_an_adapter_and_a_wider_model_compute_what_they_did_when_loaded(
    name: str, layers: Any, tmp_path: Path
) -> None:
    model = grown(name, layers_to_transform=layers)
    perturb(model, 0.1, only=".grow.")
    expected = logits(model, IDS)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(of_family(name), tmp_path / "adapter")
    assert torch.equal(logits(loaded, IDS), expected)
    if name in NO_WIDTH:
        with pytest.raises(ValueError, match="does not say how wide"):
            widen(model)
        return
    wide: Any = widen(model)
    wide.save_pretrained(tmp_path / "wide")
    again = type(wide).from_pretrained(tmp_path / "wide")
    torch.testing.assert_close(logits(again, IDS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("every", "layers"), [(3, None), (2, [0])])  # each so-many-th has experts
def test_dense_layers_beside_experts_grow_and_are_loaded(every: int, layers: Any, tmp_path: Path) -> None:
    base = of_family("llama4_text", interleave_moe_layer_step=every)
    before = logits(base, IDS)
    model = get_peft_model(base, GrowConfig(task_type="CAUSAL_LM", layers_to_transform=layers))
    assert torch.equal(logits(model, IDS), before)
    perturb(model, 0.1, only=".grow.")
    expected = logits(model, IDS)
    wide: Any = widen(model)
    wide.save_pretrained(tmp_path)
    again = type(wide).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, IDS), expected, rtol=1e-4, atol=1e-5)


def test_layers_with_experts_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="layer 1 of Llama4ForCausalLM has experts"):
        get_peft_model(of_family("llama4_text", interleave_moe_layer_step=2), GrowConfig())


ENCODER_DECODERS: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "bart": (BartForConditionalGeneration, {"encoder_ffn_dim": 64, "decoder_ffn_dim": 96}, ["fc1", "fc2"]),
    "mbart": (MBartForConditionalGeneration, {"encoder_ffn_dim": 64, "decoder_ffn_dim": 96}, ["fc1", "fc2"]),
    "t5": (T5ForConditionalGeneration, {"d_ff": 64, "d_kv": 8}, ["wi", "wo"]),
    "mt5": (MT5ForConditionalGeneration, {"d_ff": 64, "d_kv": 8}, ["wi_0", "wi_1", "wo"]),
}


@torch.no_grad()  # throughout: with gradients, torch adds up T5's products in another order
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_encoder_and_a_decoder_grow_and_are_loaded(name: str, tmp_path: Path) -> None:
    kind, widths, targets = ENCODER_DECODERS[name]
    sizes = {"vocab_size": 128, "d_model": 32, "decoder_start_token_id": 0}
    sizes |= dict.fromkeys(("encoder_layers", "decoder_layers", "num_layers"), 2)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_heads"), 4)
    torch.manual_seed(0)
    base = kind(kind.config_class(**sizes, **widths)).eval()
    given = {"input_ids": IDS, "decoder_input_ids": IDS}
    before = base(**given).logits
    model = get_peft_model(base, GrowConfig(task_type="SEQ_2_SEQ_LM", target_modules=targets))
    assert torch.equal(model(**given).logits, before)
    perturb(model, 0.1, only=".grow.")
    after = model(**given).logits
    assert not torch.allclose(after, before, atol=1e-3)
    plain = model.merge_and_unload()
    plain.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**given).logits, after, rtol=1e-4, atol=1e-5)
