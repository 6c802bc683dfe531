"""Examples in tokens, as batches: which come together, and what is learnt in them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdo_cli.lm.batching import by_length, pad
from gdo_cli.lm.tokens import Encoded
from gdo_cli.support.errors import UserError
from gdo_cli.training.config import TrainConfig


@dataclass(frozen=True)
class Batch:
    """Examples in tokens, and the places whose next token is learnt.

    Attributes:
        input_ids_BT: right-padded sequences.
        positions_N: flat indices b·T + t whose prediction counts.
        targets_N: the token that comes after each.
        lengths: tokens of each sequence.
        prompt_lengths: tokens of each sequence before its answer.
        weights_N: how much each target counts, by its row; None where all count alike.
    """

    input_ids_BT: Tensor
    positions_N: Tensor
    targets_N: Tensor
    lengths: list[int]
    prompt_lengths: list[int]
    weights_N: Tensor | None = None

    @property
    def total_weight(self) -> float:
        """The sum of the targets' weights: their number, where all count alike."""
        return len(self.targets_N) if self.weights_N is None else float(self.weights_N.sum())


def collate(examples: list[Encoded], eos_id: int | None, loss_on: str) -> Batch:
    """Return sequences of prompt, answer and end; the loss counts the last two, or all of it.

    Args:
        eos_id: None for texts that go on where they are cut.
    Raises:
        UserError: an answer without a token, of which nothing but its end would be learnt.
    """
    if eos_id is not None and not all(e.continuation for e in examples):
        raise UserError("train: the model's tokenizer has no token for an answer; leave that row out")
    ends = [[] if eos_id is None else [eos_id if e.end is None else e.end] for e in examples]
    rows = [e.context + e.continuation + end for e, end in zip(examples, ends, strict=True)]
    input_ids_BT = pad(rows)
    width = input_ids_BT.shape[1]
    positions, targets, weights = [], [], []
    for b, (example, row) in enumerate(zip(examples, rows, strict=True)):
        first = len(example.context) if loss_on == "answer" else 1
        for t in range(first, len(row)):
            positions.append(b * width + t - 1)
            targets.append(row[t])
            weights.append(example.weight)
    lengths, prompts = [len(row) for row in rows], [len(e.context) for e in examples]
    weights_N = None if {*weights} <= {1.0} else torch.tensor(weights)
    return Batch(input_ids_BT, torch.tensor(positions), torch.tensor(targets), lengths, prompts, weights_N)


def step_batches(
    stream: Iterator[list[Encoded]],
    config: TrainConfig,
    eos_id: int,
    processes: int = 1,
    undivided: bool = False,
) -> list[list[Batch]]:
    """Return the examples of one optimizer step: for each process, the parts that go through the model
    together.

    Which examples they are does not depend on ``token_budget`` or the number of processes, only how they
    are put together. A process may get none.

    Args:
        undivided: deal out whole batches of ``batch_size``, not the examples of each.
    """
    parts = [next(stream) for _ in range(config.gradient_accumulation_steps)]
    if undivided:
        shares = [parts[rank::processes] for rank in range(processes)]
    else:
        shares = [[part[rank::processes] for part in parts] for rank in range(processes)]
    return [_together(share, config, eos_id) for share in shares]


def _together(parts: list[list[Encoded]], config: TrainConfig, eos_id: int) -> list[Batch]:
    if config.token_budget is not None:
        examples = [example for part in parts for example in part]
        together = by_length([len(e) + 1 for e in examples], config.token_budget)
        parts = [[examples[i] for i in indices] for indices in together]
    return [collate(part, eos_id, config.loss_on) for part in parts if part]


def batches(
    examples: Sequence[Encoded], batch_size: int, seed: int, start: int = 0
) -> Iterator[list[Encoded]]:
    """Yield endless batches: a new order every epoch, a pure function of the seed and the batch's number."""
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
