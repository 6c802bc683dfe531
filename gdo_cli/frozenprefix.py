"""Activations below the lowest layer that trains, kept for examples that come again in later epochs."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.growth.architecture import find_decoder
from gdo_cli.progress import note


class FrozenPrefix:
    """What enters the lowest training layer, by the tokens of the sequence; it depends on nothing else.

    While every sequence of a batch is known, the embedding gives these activations and the layers below
    hand them on.

    Args:
        room: bytes to keep; what comes when they are full is computed every time.
    """

    def __init__(self, model: PreTrainedModel, room: int) -> None:
        self.room = room
        self.layers = find_decoder(model).layers
        self.depth = lowest_training(model)
        self.known: dict[bytes, Tensor] = {}
        self.given: Tensor | None = None  # what the embedding is to give now, (B, T, D)
        self.entering: Any = None  # what entered the lowest training layer
        self.embedding = model.get_input_embeddings()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Stand between the model's parts, and leave them as they were."""
        below = [self.embedding, *self.layers[: self.depth]]
        before = [part.__dict__.get("forward") for part in below]
        for part in below:
            part.forward = MethodType(_given_or(part.forward, self), part)
        hook = self.layers[self.depth].register_forward_pre_hook(self._enter, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
            for part, own in zip(below, before, strict=True):
                del part.forward
                if own is not None:
                    part.forward = own

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.entering = args[0] if args else kwargs["hidden_states"]

    @contextmanager
    def serving(self, rows: Sequence[list[int]], packed: bool) -> Iterator[None]:
        """Run one batch, of these sequences in one row or padded to the longest."""
        keys = [array("i", row).tobytes() for row in rows]
        parts = [self.known.get(key) for key in keys]
        known = [part for part in parts if part is not None]
        if len(known) == len(keys):
            self.given = torch.cat(known)[None] if packed else nn.utils.rnn.pad_sequence(known, True)
        try:
            yield
            if self.given is None and self.room > 0:
                lengths = [len(row) for row in rows]
                entered = self.entering.detach()
                pieces = entered[0].split(lengths) if packed else entered
                for key, piece, n in zip(keys, pieces, lengths, strict=True):
                    self._keep(key, piece[:n])
        finally:
            self.given = self.entering = None

    def _keep(self, key: bytes, activations: Tensor) -> None:
        size = activations.numel() * activations.element_size()
        if key not in self.known and size <= self.room:
            self.known[key] = activations.clone()
            self.room -= size


def _given_or(compute: Any, prefix: FrozenPrefix) -> Any:
    def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return compute(*args, **kwargs) if prefix.given is None else prefix.given

    return forward


def frozen_prefix(model: PreTrainedModel, gib: float) -> FrozenPrefix | None:
    """The cache, or None with a notice where what enters the lowest training layer is not always the same."""
    if not gib:
        return None
    if lowest_training(model) == 0:
        note("train.prefix_cache_gib: the lowest layer or the embedding trains, so nothing can be kept")
        return None
    if dropout := _dropout(model):
        note(f"train.prefix_cache_gib: the model has dropout ({', '.join(dropout)}), so nothing can be kept")
        return None
    return FrozenPrefix(model, int(gib * 2**30))


def _dropout(model: PreTrainedModel) -> list[str]:
    """Settings of the model by which a forward pass in training is random."""
    config = model.config.get_text_config().to_dict()
    return [
        name
        for name, value in config.items()
        if isinstance(value, int | float) and value > 0 and "drop" in name
    ]


def lowest_training(model: PreTrainedModel) -> int:
    """Index of the lowest decoder layer that trains; 0 if what comes before the layers does."""
    if any(p.requires_grad for p in model.get_input_embeddings().parameters()):
        return 0
    layers = find_decoder(model).layers
    training = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(training, 0)
