"""What stands ready for a pull request to PEFT: its example runs, its configurations grow what they say."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from gdo_cli.growth import GrowConfig
from gdo_cli.growth.layer import GrownRows
from gdo_cli.lm.tokens import Encoder

UPSTREAM = Path(__file__).parents[1] / "scripts" / "upstream"
SHAPE = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.parametrize(("name", "n"), [("grow-k2-6-layers", 6), ("grow-k2-all-layers", 28)])
def test_a_benchmark_configuration_grows_the_layers_that_its_name_says(name: str, n: int) -> None:
    config: Any = PeftConfig.from_pretrained(str(UPSTREAM / "experiments" / name))
    assert isinstance(config, GrowConfig)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=32, num_hidden_layers=28, **SHAPE))
    grown = get_peft_model(model, config)
    assert sum(isinstance(module, GrownRows) for module in grown.modules()) == n


@pytest.mark.filterwarnings("ignore")  # what the trainer says of its own defaults
def test_the_example_trains_and_saves_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word_encoder: Encoder
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "base")
    tokenizer = word_encoder.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [{"prompt": f"w{9 + i} w10", "completion": " w11 w12"} for i in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    words = ["--model", tmp_path / "base", "--data", tmp_path / "rows.jsonl", "--layers", "1", "--steps", "2"]
    words += ["--lr", "0.01", "--output", tmp_path / "adapter"]
    monkeypatch.setattr(sys, "argv", ["grow_finetuning.py", *map(str, words)])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    runpy.run_path(str(UPSTREAM / "grow_finetuning.py"), run_name="__main__")
    base = tiny_model("llama")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    ids = torch.arange(9, 15)[None]
    with loaded.disable_adapter():
        before = loaded(input_ids=ids).logits
    assert not torch.equal(loaded(input_ids=ids).logits, before)
