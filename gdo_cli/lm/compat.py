"""What gdo uses of transformers beyond its documented interface, each with what it falls back to.

ARCHITECTURE.md lists every such use in the package; ``make test-next`` runs the tests on newer releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

from transformers import DynamicCache, PreTrainedModel

from gdo_cli.lm.decoder import text_decoder

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


@contextmanager
def attention_exchanged(config: Any, name: str) -> Iterator[None]:
    """Within, the model attends by the function of this name."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def only_attends(decoder: Any) -> bool:
    """Return whether all that a token leaves to those after it is one key and one value a layer.

    A recurrent layer or a convolution leaves a state: it would go on from one packed sequence to the next,
    and a cache of it cannot be handed to several continuations. Some decoders (RWKV, the first GPT) take no
    cache of transformers' kind at all, whatever their configuration says.
    """
    if AttentionInterface is None or "past_key_values" not in signature(decoder.forward).parameters:
        return False
    layers = DynamicCache(config=decoder.config.get_text_config(decoder=True)).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Within, the activations of each layer are computed again for backward instead of being kept."""
    config = text_decoder(model).config

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # Forward asks; by the time of backward the model's own attention is back in its place.
        return nullcontext(), attention_exchanged(config, config._attn_implementation)

    model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
