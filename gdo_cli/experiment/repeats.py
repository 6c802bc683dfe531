"""Layers that are alike cost alike: a step that is only counted runs through two of each kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gdo_cli.lm.decoder import find_decoder

Cost = tuple[int, int]
"""Bytes kept for the backward pass, and operations."""


@dataclass
class Representative:
    """A layer that is computed, for itself and for others of its kind that are left out.

    Attributes:
        others: how many are left out.
        readings: of what has been spent so far: before and after its forward pass, and its backward pass if
            it has one.
        bare: whether it gives its output alone, and no tuple.
    """

    others: int = 0
    readings: list[Cost] = field(default_factory=list)
    bare: bool = True


def leave_out_repeats(model: Any, so_far: Callable[[], Cost]) -> list[Representative]:
    """Let the first two layers of each kind run, and pass by the others, for good.

    What the layers of a model share, such as a mask, is kept by the first, so the second is what one more
    costs.

    Args:
        so_far: what the step has cost when it is called.
    Returns:
        For :func:`with_repeats`, after the step.
    """
    kinds: dict[Hashable, list[Representative]] = {}
    learnt_below = any(p.requires_grad for p in model.get_input_embeddings().parameters())
    for layer in find_decoder(model).layers:
        seen = kinds.setdefault((learnt_below, *_kind(layer)), [])
        if len(seen) < 2:
            seen.append(Representative())
            _read(layer, seen[-1], so_far)
        else:
            seen[1].others += 1
            _pass_by(layer, seen[1])
        learnt_below |= any(p.requires_grad for p in layer.parameters())
    return [seen[1] for seen in kinds.values() if len(seen) == 2]


def with_repeats(cost: Cost, layers: list[Representative]) -> Cost:
    """Return what the step would have cost with the layers that were left out."""
    activations, flops = cost
    for layer in layers:
        for before, after in zip(layer.readings[::2], layer.readings[1::2], strict=True):
            activations += layer.others * (after[0] - before[0])
            flops += layer.others * (after[1] - before[1])
    return activations, flops


def _kind(layer: nn.Module) -> tuple[Hashable, ...]:
    """What the cost hangs on: the modules, their settings (which of the layers it is apart), what trains."""
    return tuple(
        (
            name,
            type(module),
            *(
                (k, v)
                for k, v in vars(module).items()
                if isinstance(v, int | float | str) and k != "layer_idx"
            ),
            *((n, p.shape, p.dtype, p.requires_grad) for n, p in module.named_parameters(recurse=False)),
        )
        for name, module in layer.named_modules()
    )


def _read(layer: nn.Module, one: Representative, so_far: Callable[[], Cost]) -> None:
    def read(*_: Any) -> None:
        one.readings.append(so_far())

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read()
        if inputs[0].requires_grad:
            inputs[0].register_hook(read)

    def after(_: nn.Module, __: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        read()
        one.bare = isinstance(output, Tensor)
        hidden = output if isinstance(output, Tensor) else output[0]
        if hidden.requires_grad:
            hidden.register_hook(read)

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)


def _pass_by(layer: Any, like: Representative) -> None:
    layer.forward = lambda hidden, *_, **__: hidden if like.bare else (hidden,)
