"""New transformer blocks that start as the identity (LLaMA-Pro, Wu et al., 2024)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.methods.base import Method
from gdo_cli.support.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


# What configurations list layer by layer.
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")


@dataclass(frozen=True)
class ZeroBlock(Method):
    """After each chosen layer, a copy of it with zeroed output projections; only the copies train.

    The other reading of the paper's "adding new layers with zero-initialization" (C.2). On Gemma 3
    the norm behind each zeroed projection multiplies its first gradients by 1/√eps = 1,000.

    Attributes:
        layers: after which layers a block is added: ``all``, a number, or a list of indices.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.blocks.ZeroBlock"
    layers: Any = "all"
    label: ClassVar[str] = "Zero blocks"

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from torch import nn

        from gdo_cli.lm.decoder import attention_projections, find_decoder, mlp_projections

        model.requires_grad_(False)
        decoder = find_decoder(model)
        chosen = set(range(len(decoder)) if layers is None else layers)
        (_, o_names), (_, down_names) = (f(model, layers) for f in (attention_projections, mlp_projections))
        outputs = {name.partition(f"{decoder.name}.")[2].partition(".")[2] for name in o_names + down_names}
        blocks: list[nn.Module] = []
        for index, layer in enumerate(decoder.layers):
            blocks += [layer, _identity_block(layer, outputs)] if index in chosen else [layer]
        parent, _, last = decoder.name.rpartition(".")
        setattr(model.get_submodule(parent), last, nn.ModuleList(blocks))
        _renumber(model, blocks, chosen)
        return model


def _identity_block(layer: nn.Module, outputs: set[str]) -> nn.Module:
    """A trainable copy of the layer that adds nothing to the residual stream yet."""
    block = copy.deepcopy(layer).requires_grad_(True)
    for name in outputs:
        for parameter in block.get_submodule(name).parameters():
            parameter.data.zero_()
    return block


def _renumber(model: PreTrainedModel, blocks: list[nn.Module], chosen: set[int]) -> None:
    """Tell the configuration and the attention modules (their place in the cache) of the new depth."""
    config = model.config.get_text_config()
    for name in _PER_LAYER:
        if (each := getattr(config, name, None)) is not None:
            setattr(config, name, [t for i, t in enumerate(each) for _ in range(1 + (i in chosen))])
    config.num_hidden_layers = len(blocks)
    for index, block in enumerate(blocks):
        attention: Any = getattr(block, "self_attn", None)
        if not hasattr(attention, "layer_idx"):
            raise UserError(f"{type(block).__name__}: gdo does not know how to add such a block")
        attention.layer_idx = index
        if hasattr(block, "layer_idx"):
            setattr(block, "layer_idx", index)  # noqa: B010  (a plain attribute, no submodule)
