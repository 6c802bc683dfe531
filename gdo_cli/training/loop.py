"""The loop: batches in, optimizer steps out. Logging and evaluation are its callers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.compat import recomputing
from gdo_cli.lm.tokens import Encoded
from gdo_cli.support.errors import RunFailed
from gdo_cli.training.batches import Batch, batches, step_batches
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.distributed import (
    full_tensor,
    gradient_sync,
    rank,
    sum_over_ranks,
    world_size,
    wrap_for_training,
)
from gdo_cli.training.optimizers import build_optimizer
from gdo_cli.training.penalties import Penalty
from gdo_cli.training.token_weights import token_weights


@dataclass(frozen=True)
class Step:
    """One optimizer step, numbered from 1. ``loss`` is the mean over its target tokens, in nats;
    ``penalty`` what the method added to it; ``lr`` the rate where ``train.lr_scale`` changes nothing;
    ``grad_norm`` the global gradient norm before clipping."""

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
    watch: Callable[[], None] | None = None,
) -> Iterator[Step]:
    """Train in place and yield after every optimizer step.

    Where there are several processes, each computes a share of every step's examples, and all yield the
    same steps. A penalty is one of whole batches, so these are then what is shared out.

    Args:
        penalty: what the method adds to the loss.
        attach: takes the optimizer and its schedule, and says how many steps they have done already.
        watch: called when the gradients of a step are complete.
    Raises:
        UserError: ``train.lr_scale`` names nothing that trains.
        RunFailed: the loss or the gradient is not finite; the weights are those of the step before.
    """
    learner = wrap_for_training(_Learner(lm, penalty, config), lm, config.shard)
    parameters = [p for p in lm.parameters() if p.requires_grad]
    optimizer = build_optimizer(lm.named_parameters(), config)
    last = config.total_steps(len(examples))
    scheduler = get_scheduler(config.lr_scheduler, optimizer, config.warmup_steps, last)
    done = attach(optimizer, scheduler) if attach else 0
    seen = done * config.gradient_accumulation_steps
    stream = batches(examples, config.batch_size, seed, seen)
    if penalty:
        penalty.skip(seen)
    lm.train()
    with recomputing(lm.model) if config.gradient_checkpointing else nullcontext():
        for number in range(done + 1, last + 1):
            began = time.perf_counter()
            shares = step_batches(stream, config, eos_id, world_size(), undivided=penalty is not None)
            loss, added = _backward(
                learner, shares, penalty, (number - 1) * config.gradient_accumulation_steps
            )
            norm, grad_norm = _checked(number, shares, loss, added, parameters, config)
            if watch:
                watch()
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, config.max_grad_norm, norm)
            rate = scheduler.get_last_lr()[0] / optimizer.param_groups[0]["factor"]
            optimizer.step()
            lm.weights_changed()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            tokens = sum(_lengths(shares))
            yield Step(number, loss, added, rate, grad_norm, tokens, time.perf_counter() - began)


def _checked(
    number: int,
    shares: list[list[Batch]],
    loss: float,
    added: float,
    parameters: list[nn.Parameter],
    config: TrainConfig,
) -> tuple[Tensor, float]:
    """The global gradient norm of a step that can be taken, where it was computed and as a number.

    A GPU is waited for at every number that is read of it, so it is read once.
    """
    if not math.isfinite(loss + added):
        raise RunFailed(
            f"step {number}: the loss is {loss + added} on {_described(shares)}; lower "
            f"train.lr={config.lr}, or set train.max_grad_norm"
        )
    norm = full_tensor(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    grad_norm = float(norm)
    if not math.isfinite(grad_norm):
        raise RunFailed(
            f"step {number}: the gradient is not finite on {_described(shares)} (loss {loss:.3g}); "
            f"lower train.lr={config.lr}"
        )
    return norm, grad_norm


def _lengths(shares: list[list[Batch]]) -> list[int]:
    return [length for share in shares for batch in share for length in batch.lengths]


def _described(shares: list[list[Batch]]) -> str:
    lengths = _lengths(shares)
    return f"a batch of {len(lengths)} examples, the longest of {max(lengths)} tokens"


class _Learner(nn.Module):
    """What is computed of one batch, as one forward pass: what stands around it (DDP, FSDP) sees no other."""

    def __init__(self, lm: AnswerLM, penalty: Penalty | None, config: TrainConfig) -> None:
        super().__init__()
        self.lm, self.penalty, self.config = lm, penalty, config

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed loss over the batch's target tokens, each by its weight, and the penalty."""
        lm, n = self.lm, len(batch.targets_N)
        extra = self.penalty.positions(batch) if self.penalty else batch.positions_N[:0]
        places = torch.cat([batch.positions_N, extra]).to(lm.device)
        with lm.autocast():
            hidden_ND = lm.hidden(batch.input_ids_BT, places, lengths=batch.lengths)
        targets_N = batch.targets_N.to(lm.device)
        weights_N = token_weights(lm, hidden_ND[:n], targets_N, self.config)
        if batch.weights_N is not None:
            rows_N = batch.weights_N.to(lm.device)
            weights_N = rows_N if weights_N is None else weights_N * rows_N
        loss = lm.loss(hidden_ND[:n], targets_N, weights_N)
        if self.penalty is None:
            return loss, loss.new_zeros(())
        return loss, self.penalty.value(lm, batch, lm.logits(hidden_ND[n:]))


def _backward(
    learner: nn.Module, shares: list[list[Batch]], penalty: Penalty | None, seen: int
) -> tuple[float, float]:
    """Gradients of the mean loss over all target tokens of the step, by the weights of their rows, and of the
    penalty's mean over its batches; returns both.

    Args:
        shares: each process's batches.
        seen: batches before this step.
    """
    n_targets = sum(batch.total_weight for share in shares for batch in share)
    n_batches = sum(map(len, shares))
    mine, rounds = shares[rank()], max(map(len, shares))
    losses, values = [], []
    for number in range(rounds):
        # All go through the model equally often: who has no batch left computes one for nothing.
        idle = number >= len(mine)
        batch = shares[0][0] if idle else mine[number]
        if penalty and world_size() > 1:
            penalty.skip(seen + number * world_size() + rank())
        with gradient_sync(learner, number == rounds - 1):
            loss, value = learner(batch)
            loss, value = loss / n_targets, value / n_batches
            if not idle:
                losses.append(loss.detach())
                values.append(value.detach())
            ((loss + value) * (0 if idle else world_size())).backward()  # their mean is taken
    # Read when all is on its way: a GPU is waited for at every number.
    loss_sum = sum(torch.stack(losses).tolist(), 0.0) if losses else 0.0
    added = sum(torch.stack(values).tolist(), 0.0) if values and penalty else 0.0
    loss_sum, added = sum_over_ranks(loss_sum, added)
    return loss_sum, added
