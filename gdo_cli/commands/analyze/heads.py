"""Attention heads as the output projection reads them: captured, replaced, and what they add.

Shapes: P prompts, L layers, H heads of a layer, F features of a head, W = H·F, D width of the model,
R rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.growth.head_dim import HeadRows
from gdo_cli.lm.decoder import attention_projections, find_decoder

Place = tuple[int, int]  # layer, head


class Heads:
    """The base model's L·H attention heads, which are the same ones in every model made of it.

    A head is the base's head *with all of its copies*: where attention has grown by heads, the copies
    of a head are read, replaced and summed together with it; where heads have become wider, a head is
    all of its width. So a model that has just been grown has exactly the base's heads. Blocks that a
    method has put in between hold none of them.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        """
        Args:
            base: the untouched model; what a method makes of it in place is followed.
        Raises:
            ValueError: its attention has no output projection that gdo knows how to find.
        """
        config = base.config.get_text_config()
        decoder = find_decoder(base)
        self.per_layer = int(config.num_attention_heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // self.per_layer)
        self._layers = list(decoder.layers)
        names = attention_projections(base)[1]
        self._names = [name.removeprefix(f"{decoder.name}.").partition(".")[2] for name in names]

    def __len__(self) -> int:
        return len(self._layers) * self.per_layer

    def places(self) -> list[Place]:
        """(layer, head) of every head, in order."""
        return [(layer, head) for layer in range(len(self._layers)) for head in range(self.per_layer)]

    def projection(self, layer: int) -> nn.Module:
        """Return the output projection of a layer, with whatever a method has wrapped around it."""
        return self._layers[layer].get_submodule(self._names[layer])

    def norm_behind(self, layer: int) -> nn.Module | None:
        """Return the norm between a layer's output projection and the residual stream (Gemma 2 and 3, OLMo
        2)."""
        block: Any = self._layers[layer]
        # Elsewhere the norm of this name stands in front of the MLP.
        return block.post_attention_layernorm if hasattr(block, "post_feedforward_layernorm") else None

    def features(self, layer: int, width: int) -> Tensor:
        """Return which of the W features that the projection reads belong to each head, (H, F)."""
        features = torch.arange(width)
        if isinstance(self.projection(layer), HeadRows):
            return features.view(self.per_layer, -1)
        # Grown heads stand behind the old ones, copy by copy.
        return features.view(-1, self.per_layer, self.head_dim).transpose(0, 1).flatten(1)

    @contextmanager
    def captured(self) -> Iterator[list[Tensor]]:
        """What every projection reads at the last token of a forward pass: L of (R, W)."""
        seen = [torch.empty(0)] * len(self._layers)

        def keep(layer: int) -> Any:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                seen[layer] = args[0][:, -1].detach().clone()

            return hook

        with self._hooked(keep):
            yield seen

    @contextmanager
    def replaced(self, outputs: Sequence[Tensor], rows: Sequence[Place | None]) -> Iterator[None]:
        """In row r of the batch, head ``rows[r]`` gives at the last token what ``outputs`` says.

        Args:
            outputs: per layer, what its projection would read of every head, (W,).
            rows: the head that is replaced in each row; None leaves the row alone.
        """

        def replace(layer: int) -> Any:
            here = [(row, place[1]) for row, place in enumerate(rows) if place and place[0] == layer]

            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
                if not here:
                    return None
                x = args[0].clone()
                features = self.features(layer, x.shape[-1]).to(x.device)
                for row, head in here:
                    x[row, -1, features[head]] = outputs[layer][features[head]].to(x)
                return (x, *args[1:])

            return hook

        with self._hooked(replace):
            yield

    @contextmanager
    def _hooked(self, hook: Any) -> Iterator[None]:
        handles = []
        try:
            for layer in range(len(self._layers)):
                handles.append(self.projection(layer).register_forward_pre_hook(hook(layer)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def contributions(self, layer: int, x_PW: Tensor) -> Tensor:
        """Return what each head adds to the projection's output, its bias apart: (P, W) → (P, H, D)."""
        features = self.features(layer, x_PW.shape[1]).to(x_PW.device)
        # One row per head with all others at zero, and one of zeros, which is the bias.
        alone = x_PW.new_zeros(len(x_PW), self.per_layer + 1, x_PW.shape[1])
        for head in range(self.per_layer):
            alone[:, head, features[head]] = x_PW[:, features[head]]
        out: Tensor = self.projection(layer)(alone).float()
        return out[:, :-1] - out[:, -1:]
