"""What is timed: each worker is a process of its own that takes one step for every line it is sent.

    python -m bench.workers NAME [OVERRIDE …]

It answers ``{"ready": …}``, then ``{"seconds": …}`` for every line, and at the end ``{"peak": …}``: bytes
of memory at the peak since it was ready to take its first step.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gdo_cli.compiling import compiled
from gdo_cli.config import load_run
from gdo_cli.device import compute_dtype, hold_weights, peak_memory, reset_peak_memory
from gdo_cli.evaluation import Suite
from gdo_cli.experiment import end_ids
from gdo_cli.growth.architecture import mlp_projections
from gdo_cli.material import Material, read_material
from gdo_cli.models import Loaded
from gdo_cli.schema import RunConfig
from gdo_cli.scoring import AnswerLM
from gdo_cli.tasks import Example
from gdo_cli.tokens import Encoder
from gdo_cli.training import train

COMMON = ["experiment=protocol", "task=scitail", "train.steps=100000", "evaluation.items=4"]
CPU = torch.device("cpu")


def configured(overrides: list[str]) -> tuple[RunConfig, Material, Loaded]:
    config = load_run([*COMMON, "evaluation.final_items=4", "probe=[]", *overrides])
    return config, read_material(config), config.model.load()


def batches_of(config: RunConfig, material: Material) -> list[Example]:
    """The examples in the order in which gdo's own loop shows them, for peers to show likewise."""
    count = len(material.train)
    order = random.Random(f"{config.seed}/0").sample(range(count), count)
    return [material.train[i] for i in order]


def gdo(overrides: list[str]) -> Iterator[float]:
    """gdo's own loop with any method."""
    config, material, loaded = configured(overrides)
    encoder = Encoder.of(loaded.tokenizer, end_ids(loaded.model))
    suite = Suite(config, material, encoder)
    dtype = compute_dtype(config.train.precision, CPU)
    loaded.model.requires_grad_(False)
    hold_weights(loaded.model, dtype)
    layers = getattr(config.method, "layers", "all")
    model = config.method.prepare(loaded.model, layers if isinstance(layers, list) else None)
    hold_weights(model, dtype)
    lm = AnswerLM(model, dtype)
    penalty = config.method.penalty(lm, suite.replay, config.seed)
    yield 0.0
    with compiled(lm.model, config.train.compile, config.train.total_steps(len(suite.train))):
        for step in train(lm, suite.train, config.train, config.seed, encoder.eos_id, penalty):
            yield step.seconds


def trl(overrides: list[str], lora: bool = False) -> Iterator[float]:
    """TRL's SFTTrainer: loss on the completion only, bf16, no packing, no gradient checkpointing."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    config, material, loaded = configured(overrides)
    rows = [{"prompt": e.prompt, "completion": e.answer} for e in batches_of(config, material)[:2000]]
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = _in_order(SFTTrainer)(
        model=loaded.model.float(),
        args=SFTConfig(**_arguments(config), gradient_checkpointing=False, max_length=512),
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        peft_config=adapter if lora else None,
    )
    yield from _steps_of(trainer)


def trl_lora(overrides: list[str]) -> Iterator[float]:
    return trl(overrides, lora=True)


def naive_growth(overrides: list[str]) -> Iterator[float]:
    """Growth as one would first write it: concatenated weights, all of them trained, the old halves'
    gradients zeroed, in transformers' Trainer with its own loss."""
    from transformers import Trainer, TrainingArguments

    config, material, loaded = configured(overrides)
    model: Any = loaded.model.float().requires_grad_(False)
    columns, rows = mlp_projections(model)
    for name in columns + rows:
        _concatenate(model.get_submodule(name), dim=0 if name in columns else 1)
    encoder = Encoder.of(loaded.tokenizer, end_ids(loaded.model))

    def tokens(example: Example) -> dict[str, list[int]]:
        prompt = [encoder.tokenizer.bos_token_id, *encoder.plain(example.prompt)]
        answer = [*encoder.plain(example.answer), encoder.eos_id]
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(e["input_ids"]) for e in examples)

        def padded(key: str, filler: int) -> torch.Tensor:
            return torch.tensor([e[key] + [filler] * (width - len(e[key])) for e in examples])

        return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100)}

    trainer = _in_order(Trainer)(
        model=model,
        args=TrainingArguments(**_arguments(config), remove_unused_columns=False),
        train_dataset=[tokens(e) for e in batches_of(config, material)[:2000]],
        data_collator=collate,
    )
    yield from _steps_of(trainer)


def _concatenate(linear: Any, dim: int) -> None:
    old = linear.weight.detach()
    wide = torch.cat([old, old], dim=dim) if dim == 0 else torch.cat([old, old], dim=dim) / 2
    mask = torch.ones_like(wide)
    mask.narrow(dim, 0, old.shape[dim]).zero_()
    linear.weight = torch.nn.Parameter(wide)
    linear.weight.register_hook(lambda gradient: gradient * mask)


def _arguments(config: RunConfig) -> dict[str, Any]:
    return {
        "output_dir": os.environ.get("TMPDIR", "/tmp") + "/gdo-bench",
        "per_device_train_batch_size": config.train.batch_size,
        "learning_rate": config.train.lr,
        "lr_scheduler_type": "constant",
        "max_steps": 2000 // config.train.batch_size,
        "bf16": compute_dtype("auto", CPU) == torch.bfloat16,
        "use_cpu": True,
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _in_order(trainer: Any) -> Any:
    class InOrder(trainer):  # type: ignore[misc]
        """Takes the rows as they come, so that every peer sees the batches that gdo sees."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return InOrder


def _steps_of(trainer: Any) -> Iterator[float]:
    """A trainer's loop turned inside out: it runs in a thread that waits to be asked for each step."""
    import queue
    import threading

    from transformers import TrainerCallback

    asked: queue.Queue[None] = queue.Queue()
    took: queue.Queue[float] = queue.Queue()

    class Gate(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            asked.get()
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            took.put(time.perf_counter() - self.began)

    trainer.add_callback(Gate())
    threading.Thread(target=trainer.train, daemon=True).start()
    yield 0.0
    while True:
        asked.put(None)
        yield took.get()


WORKERS: dict[str, Callable[[list[str]], Iterator[float]]] = {
    "gdo": gdo,
    "trl": trl,
    "trl_lora": trl_lora,
    "naive_growth": naive_growth,
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the error stream

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    name, *overrides = sys.argv[1:]
    steps = WORKERS[name](overrides)
    next(steps)
    reset_peak_memory(CPU)
    answer(ready=name)
    for _ in sys.stdin:
        answer(seconds=next(steps))
    answer(peak=peak_memory(CPU))
    os._exit(0)  # a trainer's thread may still wait


if __name__ == "__main__":
    main()
