"""TRL's DPO, GRPO and reward training with growth, where the reference is an adapter's copy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import perturb, tiny_model
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerBase

from gdo_cli.growth import GrowConfig

trl: Any = pytest.importorskip("trl")
# TRL 1.16 turns on, by its old name, what transformers 5.23 calls activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*is deprecated:FutureWarning")
PAIRS = [{"prompt": "w9 w10", "chosen": " w11 w12", "rejected": " w13"}] * 8
SETTINGS: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "report_to": [],
    "logging_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.fixture
def tokenizer(word_encoder: Any) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = word_encoder.tokenizer
    return found


def moved(**fields: Any) -> PeftModel:
    """A grown model whose adapter has been trained, as far as a reference can tell."""
    model = get_peft_model(tiny_model("llama"), GrowConfig(task_type="CAUSAL_LM", **fields))
    perturb(model, 0.3, only=".grow.")
    return model


def first_log(trainer: Any, key: str) -> float:
    trainer.train()
    return float(next(entry[key] for entry in trainer.state.log_history if key in entry))


@pytest.mark.parametrize("mode", ["new", "columns"])
def test_dpo_on_a_trained_adapter_starts_from_it(
    mode: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """The policy is its own reference, so that the loss is ln 2."""
    trainer = trl.DPOTrainer(
        moved(trainable=mode),
        args=trl.DPOConfig(str(tmp_path), **SETTINGS),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tokenizer,
    )
    assert first_log(trainer, "loss") == pytest.approx(math.log(2), abs=1e-4)


def test_grpo_on_a_trained_adapter_starts_at_no_divergence(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    args = trl.GRPOConfig(str(tmp_path), beta=0.1, num_generations=4, max_completion_length=4, **SETTINGS)
    trainer = trl.GRPOTrainer(
        moved(),
        reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": pair["prompt"]} for pair in PAIRS]),
        processing_class=tokenizer,
    )
    assert first_log(trainer, "kl") == pytest.approx(0, abs=1e-4)


def test_a_reward_model_s_head_trains_and_is_kept(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    config = tiny_model("llama").config
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    base = LlamaForSequenceClassification(config)
    before = base.score.weight.detach().clone()
    trainer = trl.RewardTrainer(
        base,
        args=trl.RewardConfig(str(tmp_path), learning_rate=1e-2, **SETTINGS),
        train_dataset=Dataset.from_list([{k: p[k] for k in ("chosen", "rejected")} for p in PAIRS]),
        processing_class=tokenizer,
        peft_config=GrowConfig(task_type="SEQ_CLS"),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    loaded = PeftModel.from_pretrained(LlamaForSequenceClassification(config), tmp_path / "out")
    head = loaded.base_model.model.score
    assert not torch.equal(head.modules_to_save["default"].weight, before)
