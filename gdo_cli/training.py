"""The loop: batches in, optimizer steps out. Logging and evaluation are its callers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from gdo_cli.batches import Batch, batches, step_batches
from gdo_cli.errors import RunFailed
from gdo_cli.frozenprefix import frozen_prefix
from gdo_cli.packing import attention_of_forward
from gdo_cli.penalties import Penalty
from gdo_cli.schema import TrainConfig
from gdo_cli.scoring import AnswerLM
from gdo_cli.tokens import Encoded


@dataclass(frozen=True)
class Step:
    """One optimizer step, numbered from 1. ``loss`` is the mean over its target tokens, in nats;
    ``penalty`` what the method added to it; ``grad_norm`` the global gradient norm before clipping."""

    step: int
    loss: float
    penalty: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float


def train(
    lm: AnswerLM,
    examples: Sequence[Encoded],
    config: TrainConfig,
    seed: int,
    eos_id: int,
    penalty: Penalty | None = None,
    attach: Callable[[torch.optim.Optimizer, Any], int] | None = None,
) -> Iterator[Step]:
    """Train in place and yield after every optimizer step.

    Args:
        penalty: what the method adds to the loss.
        attach: takes the optimizer and its schedule, and says how many steps they have done already.
    Raises:
        RunFailed: the loss or the gradient is not finite; the weights are those of the step before.
    """
    parameters = [p for p in lm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
    total = config.total_steps(len(examples))
    scheduler = get_scheduler(config.lr_scheduler, optimizer, config.warmup_steps, total)
    done = attach(optimizer, scheduler) if attach else 0
    seen = done * config.gradient_accumulation_steps
    stream = batches(examples, config.batch_size, seed, seen)
    if penalty:
        penalty.skip(seen)
    lm.train()
    with _memory_and_time(lm, config):
        for number in range(done + 1, total + 1):
            began = time.perf_counter()
            micro = step_batches(stream, config, eos_id)
            loss, added = _backward(lm, micro, penalty)
            norm = _checked(number, micro, loss, added, parameters, config)
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, config.max_grad_norm, norm)
            rate = scheduler.get_last_lr()[0]
            optimizer.step()
            lm.weights_changed()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            tokens = sum(sum(b.lengths) for b in micro)
            yield Step(number, loss, added, rate, float(norm), tokens, time.perf_counter() - began)


def _checked(
    number: int,
    micro: list[Batch],
    loss: float,
    added: float,
    parameters: list[nn.Parameter],
    config: TrainConfig,
) -> Tensor:
    """The global gradient norm, of a step that can be taken."""
    if not math.isfinite(loss + added):
        raise RunFailed(
            f"step {number}: the loss is {loss + added} on {_described(micro)}; lower "
            f"train.lr={config.lr}, or set train.max_grad_norm"
        )
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not torch.isfinite(norm):
        raise RunFailed(
            f"step {number}: the gradient is not finite on {_described(micro)} (loss {loss:.3g}); "
            f"lower train.lr={config.lr}"
        )
    return norm


def _described(micro: list[Batch]) -> str:
    lengths = [length for batch in micro for length in batch.lengths]
    return f"a batch of {len(lengths)} examples, the longest of {max(lengths)} tokens"


@contextmanager
def _memory_and_time(lm: AnswerLM, config: TrainConfig) -> Iterator[None]:
    """What trades one for the other: activations made again for backward, or kept from epoch to epoch."""
    lm.prefix = frozen_prefix(lm.model, config.prefix_cache_gib)
    if config.gradient_checkpointing:
        again = partial(attention_of_forward, lm.model)
        lm.model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": again})
    try:
        with lm.prefix.used() if lm.prefix else nullcontext():
            yield
    finally:
        lm.prefix = None
        if config.gradient_checkpointing:
            lm.model.activation_checkpointing_disable()


def _backward(lm: AnswerLM, micro: list[Batch], penalty: Penalty | None) -> tuple[float, float]:
    """Gradients of the mean loss over all target tokens of the step, and of the penalty's mean over its
    batches; returns both."""
    n_targets = sum(len(b.targets_N) for b in micro)
    total, added = 0.0, 0.0
    for batch in micro:
        n = len(batch.targets_N)
        extra = penalty.positions(batch) if penalty else batch.positions_N[:0]
        places = torch.cat([batch.positions_N, extra]).to(lm.device)
        with lm.autocast():
            hidden_ND = lm.hidden(batch.input_ids_BT.to(lm.device), places, lengths=batch.lengths)
        loss = lm.loss(hidden_ND[:n], batch.targets_N.to(lm.device)) / n_targets
        total += loss.item()
        if penalty:
            value = penalty.value(lm, batch, lm.logits(hidden_ND[n:])) / len(micro)
            added += value.item()
            loss = loss + value
        loss.backward()
    return total, added
