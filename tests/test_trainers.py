"""Growth as a library: a grown model in the hands of other people's trainers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import bits, changed, logits, random_ids, tiny_model, trainable
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from gdo_cli.growth import GrowConfig
from gdo_cli.growth.folding import fold
from gdo_cli.lm.tokens import Encoder

# TRL 1.16 turns on, by its old name, what transformers 5.23 calls activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

ROWS = random_ids(8, 12).tolist()
STEPS = 6
PLAN: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": len(ROWS),  # every step sees all there is
    "learning_rate": 1e-2,
    "weight_decay": 0.1,  # would move a frozen weight that it reached
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
}


def with_transformers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Trainer:
    return Trainer(
        model=model,
        args=TrainingArguments(folder, **PLAN),
        train_dataset=Dataset.from_dict({"input_ids": ROWS}),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


def with_trl(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Trainer:
    """TRL's own defaults, which recompute activations in the backward pass."""
    texts = [" ".join(f"w{i}" for i in row) for row in ROWS]
    return SFTTrainer(
        model=model,
        args=SFTConfig(folder, bf16=False, **PLAN),
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=tokenizer,
    )


@dataclass
class Trained:
    """A grown model after training, and what there was before."""

    family: str
    trains: str
    model: Any
    before: dict[str, Tensor]
    losses: list[float]

    def logits(self) -> Tensor:
        return logits(self.model, random_ids(3, 11))

    def base(self) -> PreTrainedModel:
        return tiny_model(self.family)


@pytest.fixture(scope="module", params=[with_transformers, with_trl], ids=["transformers", "trl"])
def trainer_of(request: pytest.FixtureRequest) -> Callable[..., Trainer]:
    made: Callable[..., Trainer] = request.param
    return made


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def trained_family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["new", "columns"])
def trained(
    request: pytest.FixtureRequest,
    trained_family: str,
    trainer_of: Callable[..., Trainer],
    word_encoder: Encoder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """G-Freeze or G-Train by either trainer; the tests below only read it."""
    growth = GrowConfig(task_type="CAUSAL_LM", layers_to_transform=[0, 2], trainable=request.param)
    model = get_peft_model(tiny_model(trained_family), growth)
    before = bits(model)
    trainer = trainer_of(model, word_encoder.tokenizer, tmp_path_factory.mktemp("trainer"))
    trainer.train()
    losses = [float(line["loss"]) for line in trainer.state.log_history if "loss" in line]
    return Trained(trained_family, request.param, model.eval(), before, losses)


@pytest.mark.few(3)
def test_the_loss_goes_down(trained: Trained) -> None:
    assert len(trained.losses) == STEPS
    assert trained.losses == sorted(trained.losses, reverse=True)


@pytest.mark.few(3)
def test_the_new_weights_have_moved_and_nothing_else(trained: Trained) -> None:
    new = {name for name in trained.before if ".grow." in name}
    assert changed(trained.before, trained.model) == new == set(trainable(trained.model))


@pytest.mark.slow
def test_without_its_growth_the_model_is_the_base_bit_for_bit(trained: Trained) -> None:
    base = logits(trained.base(), random_ids(3, 11))
    with trained.model.disable_adapter():
        assert torch.equal(trained.logits(), base)
    assert not torch.equal(trained.logits(), base)


def test_the_saved_adapter_gives_the_same_logits_when_loaded(trained: Trained, tmp_path: Path) -> None:
    trained.model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(trained.base(), tmp_path)
    assert torch.equal(logits(loaded, random_ids(3, 11)), trained.logits())


def test_g_train_folds_back_to_the_original_size(trained: Trained) -> None:
    model = copy.deepcopy(trained.model)
    if trained.trains == "new":
        with pytest.raises(ValueError, match="only G-Train folds"):
            fold(model)
        return
    folded = fold(model)
    sizes = {name: p.shape for name, p in trained.base().named_parameters()}
    assert {name: p.shape for name, p in folded.named_parameters()} == sizes
    # One copy in place of the mean of two equal ones: x + x and x / 2 are exact.
    assert torch.equal(logits(folded, random_ids(3, 11)), trained.logits())
