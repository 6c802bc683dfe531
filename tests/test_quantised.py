"""Growth beside a base of 4 or 8 bits: floats that begin as copies of the numbers the base computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import logits, perturb, random_ids, tiny_model
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from gdo_cli.growth import GrowConfig
from gdo_cli.growth.folding import average, fold, widen

pytest.importorskip("bitsandbytes", reason="pip install 'gdo-cli[adam8bit]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),
    pytest.mark.filterwarnings("ignore:.*inputs will be cast"),
]

IDS = random_ids(2, 7)
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
EIGHT = {"load_in_8bit": True}
# Largest difference of logits of about 1. Eight bits round what goes into the base's products, too, but not
# what goes into the copies'; 0.012 was measured.
BITS = pytest.mark.parametrize(("bits", "apart"), [(NF4, 0.0), (EIGHT, 0.03)])
MODE = pytest.mark.parametrize("mode", ["new", "columns"])
PACKS = "support_avx512bf16_for_cpu"  # whether bitsandbytes repacks 4 bits at the first evaluation
MERGED = 0.03  # one wide product in fp32 in the place of several in bf16; 0.018 was measured


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_model("llama").to(torch.bfloat16).save_pretrained(path)
    return path


def quantised(folder: Path, bits: dict[str, Any]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**bits), dtype=torch.bfloat16
    )
    for layer in model.modules():
        if hasattr(layer, PACKS):  # the evaluations before growth, too, read what is grown
            setattr(layer, PACKS, False)
    return model


def grown(folder: Path, bits: dict[str, Any], mode: str) -> tuple[torch.Tensor, Any]:
    """The base's logits, and the model that grew from it."""
    base = quantised(folder, bits)
    before = logits(base, IDS)
    return before, get_peft_model(base, GrowConfig(task_type="CAUSAL_LM", trainable=mode))


def apart_from(model: Any, expected: torch.Tensor) -> float:
    return float((logits(model, IDS) - expected).abs().max())


@MODE
@BITS
def test_a_quantised_model_grows_as_exactly_as_it_computes(
    folder: Path, bits: dict[str, Any], apart: float, mode: str
) -> None:
    before, model = grown(folder, bits, mode)
    assert apart_from(model, before) <= apart
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.is_floating_point() for p in trained)
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@MODE
@pytest.mark.parametrize("bits", [NF4, EIGHT])
def test_it_is_saved_loaded_merged_and_left_out(
    folder: Path, bits: dict[str, Any], mode: str, tmp_path: Path
) -> None:
    before, model = grown(folder, bits, mode)
    perturb(model, 0.1, only=".grow.")
    expected = logits(model, IDS)
    assert (expected - before).abs().max() > 2 * MERGED
    model.save_pretrained(tmp_path)
    assert apart_from(PeftModel.from_pretrained(quantised(folder, bits), tmp_path), expected) == 0
    model.merge_adapter()
    assert apart_from(model, expected) <= MERGED
    model.unmerge_adapter()
    assert apart_from(model, expected) == 0
    with model.disable_adapter():
        assert apart_from(model, before) == 0


@pytest.mark.parametrize(("change", "mode"), [(widen, "new"), (average, "new"), (fold, "columns")])
def test_no_quantised_checkpoint_is_made_of_it(folder: Path, change: Any, mode: str) -> None:
    _, model = grown(folder, NF4, mode)
    with pytest.raises(ValueError, match=r"mlp\.\w+_proj: its base is quantised"):
        change(model)


def test_a_base_whose_bits_were_repacked_is_refused(folder: Path) -> None:
    base = quantised(folder, NF4)
    base.model.layers[0].mlp.gate_proj.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="grow it before it is evaluated"):
        get_peft_model(base, GrowConfig())


def test_grown_layers_are_never_repacked(folder: Path) -> None:
    base = quantised(folder, NF4)
    for layer in base.model.layers:
        setattr(layer.mlp.gate_proj, PACKS, True)
    model = get_peft_model(base, GrowConfig())
    assert not any(getattr(layer, PACKS, False) for layer in model.modules())
