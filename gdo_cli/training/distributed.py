"""Several processes on one run, as ``torchrun`` and ``accelerate launch`` start them.

Each process computes its share of every optimizer step's examples; the first one alone evaluates, writes the
run's folder and speaks. What is trained does not depend on their number, up to the order of sums. Weights are
copied to each process (DDP) or, with ``train.shard``, kept in pieces over them between uses (FSDP2).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.support.errors import RunFailed, UserError, first_line
from gdo_cli.support.signals import Stopped

T = TypeVar("T")


def world_size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_rank_zero() -> bool:
    """Return whether this is the process that writes and speaks."""
    return rank() == 0


def on_rank_zero(make: Callable[[], T]) -> T:
    """Return what the first process makes, which alone does it, or the error that it ends in."""
    if world_size() == 1:
        return make()
    said: list[Any] = [None, None]
    own: BaseException | None = None
    if is_rank_zero():
        try:
            said[0] = make()
        except (UserError, RunFailed, Stopped) as error:
            own = said[1] = error
        except BaseException as error:  # of a kind that another process may not know
            own, said[1] = error, RunFailed(first_line(error))
    dist.broadcast_object_list(said, src=0)
    if own is not None:
        raise own
    if said[1] is not None:
        raise said[1]
    return said[0]


def max_over_ranks(value: int) -> int:
    """Return the largest of the processes' values."""
    return int(_all_reduce([value], torch.int64, dist.ReduceOp.MAX)[0])


def sum_over_ranks(*values: float) -> list[float]:
    """Return the sums of the processes' values."""
    return _all_reduce(list(values), torch.float64, dist.ReduceOp.SUM)


def _all_reduce(values: list[Any], dtype: torch.dtype, how: Any) -> list[Any]:
    if world_size() == 1:
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=dtype, device=device)
    dist.all_reduce(tensor, how)
    return tensor.tolist()


# ---------------------------------------------------------------------------------------------- weights


def wrap_for_training(module: nn.Module, lm: AnswerLM, shard: bool) -> nn.Module:
    """Return what to call in training in place of a module that computes a loss with the model.

    Gradients are the mean over the processes. Pieces (``shard``) are put together a decoder layer at a
    time; the rest of the model stays together from forward to backward.
    """
    if world_size() == 1:
        return module
    if not shard:
        return DistributedDataParallel(module, gradient_as_bucket_view=True)
    lm.pieces = [fully_shard(part) for part in (*find_decoder(lm.model).layers, module)]
    return module


def gradient_sync(module: nn.Module, now: bool) -> AbstractContextManager[Any]:
    """Within, copies keep the gradients of a backward pass to themselves, unless it is now that they meet."""
    return nullcontext() if now or not isinstance(module, DistributedDataParallel) else module.no_sync()


@contextmanager
def unsharded(lm: AnswerLM) -> Iterator[None]:
    """Within, every process has all of the weights, as plain tensors."""
    hooks = [(piece._forward_pre_hooks, piece._forward_hooks) for piece in lm.pieces]
    for piece in lm.pieces:
        piece.unshard()
        # Those of FSDP would count what the first process alone computes, and the others would not.
        piece._forward_pre_hooks, piece._forward_hooks = OrderedDict(), OrderedDict()
    yield
    for piece, (before, after) in zip(lm.pieces, hooks, strict=True):
        piece._forward_pre_hooks, piece._forward_hooks = before, after
        piece.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """Return all of a tensor that may be in pieces; to be called by every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor, cut as the parameter is."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
