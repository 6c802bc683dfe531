"""What gdo uses of transformers beyond its documented interface, each with what it falls back to.

ARCHITECTURE.md lists every such use in the package; ``make test-next`` runs the tests on newer releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

try:
    from transformers import AttentionInterface
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
except ImportError:  # another release: sequences are then padded, not packed
    AttentionInterface = None


def can_exchange_attention(decoder: Any) -> bool:
    """Return whether the decoder's attention is looked up by name at every call, and is the usual one now."""
    return (
        AttentionInterface is not None
        and bool(getattr(decoder, "_supports_attention_backend", False))
        and getattr(decoder.config, "_attn_implementation", None) == "sdpa"
    )


def register_attention(name: str, attention: Callable[..., Any]) -> None:
    """Make an attention function known to transformers by a name, where it takes any."""
    if AttentionInterface is not None:
        AttentionInterface.register(name, attention)


def attention_name(config: Any) -> str:
    """Return the name of the function that the model attends by now."""
    return str(config._attn_implementation)


@contextmanager
def attention_exchanged(config: Any, name: str) -> Iterator[None]:
    """Within, the model attends by the function of this name."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def only_attends(config: PreTrainedConfig) -> bool:
    """Return whether all that a token leaves to those after it is one key and one value a layer.

    A recurrent layer or a convolution leaves a state: it would go on from one packed sequence to the next,
    and a cache of it cannot be handed to several continuations.
    """
    if AttentionInterface is None:
        return False
    layers = DynamicCache(config=config.get_text_config(decoder=True)).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@contextmanager
def recomputing(model: PreTrainedModel, context_fn: Callable[[], Any]) -> Iterator[None]:
    """Within, the activations of each layer are computed again for backward instead of being kept."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    enable({"use_reentrant": False, "context_fn": context_fn})
    try:
        yield
    finally:
        disable()


def is_recomputing(model: PreTrainedModel) -> bool:
    """Return whether :func:`recomputing` holds."""
    if hasattr(model, "is_activation_checkpointing"):  # asking by the old name is a warning where this is
        return bool(model.is_activation_checkpointing)
    return bool(getattr(model, "is_gradient_checkpointing", False))
