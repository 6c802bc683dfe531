"""The last layer's MLP where its output is read: one place in twenty, in training on short answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.lm.compat import is_recomputing
from gdo_cli.lm.projections import ROW_NAMES


@contextmanager
def last_mlp_at(model: PreTrainedModel, places_N: Tensor) -> Iterator[None]:
    """Within the context, the MLP of the last layer is computed at flat places b·T + t alone.

    What stands at other places then is not what the model says there. A model whose last layer has no MLP
    of the usual kind, or whose activations are made again after the context, computes all.
    """
    mlp = _last_mlp(model)
    if mlp is None or is_recomputing(model):
        yield
        return
    read_N = places_N.unique()
    shape = torch.Size()

    def choose(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal shape
        shape = inputs[0].shape
        return (inputs[0].flatten(0, -2)[None, read_N], *inputs[1:])

    def put_back(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        whole_TD = output.new_zeros(shape[:-1].numel(), shape[-1])
        return whole_TD.index_copy(0, read_N, output[0]).view(shape)

    hooks = [mlp.register_forward_pre_hook(choose), mlp.register_forward_hook(put_back)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_mlp(model: PreTrainedModel) -> nn.Module | None:
    layers = getattr(model.get_decoder(), "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) else None
    usual = mlp is not None and any(name in ROW_NAMES for name, _ in mlp.named_children())
    return mlp if usual else None
