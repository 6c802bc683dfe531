"""What trains or scores and is timed: each worker is a process of its own that takes one step for every
line it is sent.

    python -m bench.workers NAME [OVERRIDE …]

It answers ``{"ready": …}``, then ``{"seconds": …, …}`` for every line, and at the end ``{"peak": …}``:
bytes of memory at the peak since it was ready to take its first step. Beside gdo's own overrides it takes
``bench.length=N``: examples of N random tokens instead of real ones.
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
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench import scorers
from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.run_data import RunData
from gdo_cli.experiment.reopen import build_evaluator, read_run_data
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.compiling import compiled
from gdo_cli.lm.decoder import mlp_projections
from gdo_cli.lm.device import compute_dtype, hold_weights, peak_memory, reset_peak_memory
from gdo_cli.lm.tokens import Encoded, Encoder, end_ids
from gdo_cli.models.loading import Loaded
from gdo_cli.tasks.base import Example
from gdo_cli.training.loop import train

COMMON = ["experiment=protocol", "task=scitail", "train.steps=100000", "evaluation.items=4"]
CPU = torch.device("cpu")
Steps = Iterator[dict[str, Any]]


def configured(overrides: list[str]) -> tuple[RunConfig, RunData, Loaded]:
    config = load_run([*COMMON, "evaluation.final_items=4", "probe=[]", *overrides])
    return config, read_run_data(config), config.model.load()


def batches_of(config: RunConfig, material: RunData) -> list[Example]:
    """The examples in the order in which gdo's own loop shows them, for peers to show likewise."""
    count = len(material.train)
    order = random.Random(f"{config.seed}/0").sample(range(count), count)
    return [material.train[i] for i in order]


def gdo(overrides: list[str]) -> Steps:
    """gdo's own loop with any method."""
    length = next((int(o.partition("=")[2]) for o in overrides if o.startswith("bench.length=")), None)
    overrides = [o for o in overrides if not o.startswith("bench.")]
    config, material, loaded = configured(overrides)
    encoder = Encoder.of(loaded.tokenizer, end_ids(loaded.model))
    suite = build_evaluator(config, material, encoder)
    dtype = compute_dtype(config.train.precision, CPU)
    loaded.model.requires_grad_(False)
    hold_weights(loaded.model, dtype)
    layers = getattr(config.method, "layers", "all")
    model = config.method.prepare(loaded.model, layers if isinstance(layers, list) else None)
    hold_weights(model, dtype)
    lm = AnswerLM(model, dtype)
    penalty = config.method.penalty(lm, suite.replay, config.seed)
    examples = suite.train if length is None else _random_examples(length, len(loaded.tokenizer))
    yield {}
    with compiled(lm.model, config.train.compile, config.train.total_steps(len(examples))):
        for step in train(lm, examples, config.train, config.seed, encoder.eos_id, penalty):
            yield {"seconds": step.seconds}


def _random_examples(length: int, vocabulary: int) -> list[Encoded]:
    draw = random.Random(0)
    rows = [[draw.randrange(vocabulary) for _ in range(length - 1)] for _ in range(256)]
    return [Encoded(row[:-2], row[-2:]) for row in rows]  # the end of sequence comes on top


def gdo_counted(overrides: list[str]) -> Steps:
    """gdo's own loop, counting the operations of its matrix products."""
    steps = gdo(overrides)
    yield next(steps)
    while True:
        with FlopCounterMode(display=False) as counter:
            step = next(steps)
        yield step | {"flops": counter.get_total_flops()}


def gdo_profiled(overrides: list[str]) -> Steps:
    """gdo's own loop with the processor's time by kind of work, in seconds."""
    steps = gdo(overrides)
    yield next(steps)
    while True:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            step = next(steps)
        kinds: dict[str, float] = {}
        for event in profiler.key_averages():
            name = event.key.removeprefix("aten::")
            kind = next((kind for kind, names in KINDS.items() if name in names), "other")
            kinds[kind] = kinds.get(kind, 0.0) + event.self_cpu_time_total / 1e6
        yield step | {"kinds": kinds}


KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "addmm_"),
    "elementwise": (
        "mul",
        "add",
        "add_",
        "sub",
        "div",
        "gelu",
        "gelu_backward",
        "pow",
        "rsqrt",
        "neg",
        "sum",
    ),
    "casts and copies": ("copy_", "cat", "fill_", "clone"),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
    "optimizer": ("_fused_adamw_", "linalg_vector_norm"),
}


def trl(overrides: list[str], lora: bool = False) -> Steps:
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


def trl_lora(overrides: list[str]) -> Steps:
    return trl(overrides, lora=True)


def naive_growth(overrides: list[str]) -> Steps:
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
        query = encoder(example.query())
        prompt, answer = query.context, [*query.continuation, encoder.eos_id]
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


def _steps_of(trainer: Any) -> Steps:
    """A trainer's loop turned inside out: it runs in a thread that waits to be asked for each step."""
    import queue
    import threading

    from transformers import TrainerCallback

    asked: queue.Queue[bool] = queue.Queue()  # for a step, or for none any more
    took: queue.Queue[float | BaseException] = queue.Queue()

    class Gate(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not asked.get():
                raise EOFError("no step any more")
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            took.put(time.perf_counter() - self.began)

    def work() -> None:
        try:
            trainer.train()
        except BaseException as error:
            took.put(error)

    trainer.add_callback(Gate())
    thread = threading.Thread(target=work, name="a peer's trainer", daemon=True)
    thread.start()
    yield {}
    try:
        while True:
            asked.put(True)
            if isinstance(seconds := took.get(), BaseException):
                raise seconds
            yield {"seconds": seconds}
    finally:
        asked.put(False)
        thread.join()


WORKERS: dict[str, Callable[[list[str]], Steps]] = {
    "gdo": gdo,
    "gdo_counted": gdo_counted,
    "gdo_profiled": gdo_profiled,
    "gdo_likelihood": scorers.gdo_likelihood,
    "lm_eval": scorers.lm_eval,
    "gdo_exact": scorers.gdo_exact,
    "generate": scorers.generate,
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
        answer(**next(steps))
    answer(peak=peak_memory(CPU))
    os._exit(0)  # a trainer's thread may still wait


if __name__ == "__main__":
    main()
