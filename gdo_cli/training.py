"""The loop: batches in, optimizer steps out. Logging and evaluation are its callers."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import get_scheduler

from gdo_cli.errors import RunFailed
from gdo_cli.schema import TrainConfig
from gdo_cli.scoring import AnswerLM, pad
from gdo_cli.tokens import Encoded


@dataclass(frozen=True)
class Batch:
    """Examples in tokens, and the places whose next token is learnt.

    Attributes:
        input_ids_BT: right-padded sequences.
        positions_N: flat indices b·T + t whose prediction counts.
        targets_N: the token that comes after each.
    """

    input_ids_BT: Tensor
    positions_N: Tensor
    targets_N: Tensor
    n_tokens: int


@dataclass(frozen=True)
class Step:
    """One optimizer step, numbered from 1. ``loss`` is the mean over its target tokens, in nats;
    ``grad_norm`` the global gradient norm before clipping."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float


def collate(examples: list[Encoded], eos_id: int, loss_on: str) -> Batch:
    """Sequences of prompt, answer and end; the loss counts the last two, or all of it."""
    rows = [e.context + e.continuation + [eos_id] for e in examples]
    input_ids_BT = pad(rows)
    width = input_ids_BT.shape[1]
    positions, targets = [], []
    for b, (example, row) in enumerate(zip(examples, rows, strict=True)):
        first = len(example.context) if loss_on == "answer" else 1
        for t in range(first, len(row)):
            positions.append(b * width + t - 1)
            targets.append(row[t])
    return Batch(input_ids_BT, torch.tensor(positions), torch.tensor(targets), sum(map(len, rows)))


def batches(examples: list[Encoded], batch_size: int, seed: int, start: int = 0) -> Iterator[list[Encoded]]:
    """Endless batches: a new order every epoch, a pure function of the seed and the batch's number."""
    n, number = len(examples), start
    orders: dict[int, list[int]] = {}

    def at(place: int) -> Encoded:
        epoch, within = divmod(place, n)
        if epoch not in orders:
            orders.clear()
            orders[epoch] = random.Random(f"{seed}/{epoch}").sample(range(n), n)
        return examples[orders[epoch][within]]

    while True:
        yield [at(place) for place in range(number * batch_size, (number + 1) * batch_size)]
        number += 1


def train(
    lm: AnswerLM, examples: list[Encoded], config: TrainConfig, seed: int, eos_id: int
) -> Iterator[Step]:
    """Train in place and yield after every optimizer step.

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
    stream = batches(examples, config.batch_size, seed)
    lm.train()
    for number in range(1, total + 1):
        began = time.perf_counter()
        micro = [
            collate(next(stream), eos_id, config.loss_on) for _ in range(config.gradient_accumulation_steps)
        ]
        loss = _backward(lm, micro)
        if not math.isfinite(loss):
            raise RunFailed(
                f"step {number}: the loss is {loss}; lower train.lr={config.lr} or set train.max_grad_norm"
            )
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(norm):
            raise RunFailed(
                f"step {number}: the gradient is not finite (loss {loss:.3g}); lower train.lr={config.lr}"
            )
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, config.max_grad_norm, norm)
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        tokens = sum(b.n_tokens for b in micro)
        yield Step(number, loss, rate, float(norm), tokens, time.perf_counter() - began)


def _backward(lm: AnswerLM, micro: list[Batch]) -> float:
    """Gradients of the mean loss over all target tokens of the step; returns that loss."""
    n_targets = sum(len(b.targets_N) for b in micro)
    total = 0.0
    for batch in micro:
        logits_NV = lm(batch.input_ids_BT.to(lm.device), batch.positions_N.to(lm.device))
        loss = F.cross_entropy(logits_NV, batch.targets_N.to(lm.device), reduction="sum") / n_targets
        loss.backward()
        total += loss.item()
    return total
