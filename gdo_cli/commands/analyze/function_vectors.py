"""Function vectors (Todd et al., 2024; paper, section 4.5 and appendix B): what is measured of a model.

1. The mean output ā of every head at the last token of prompts that show the task.
2. Its causal indirect effect: on prompts whose examples have shuffled answers, how much likelier the
   right answer becomes when the head gives ā instead of what it gives.
3. The function vector: the sum, over the heads of largest mean effect, of what ā adds through the
   output projection.

Shapes: P clean prompts, E shuffled ones, L layers, H heads of a layer, N = L·H, F features of a head,
W = H·F, D width of the model, R rows of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel

from gdo_cli.commands.analyze.prompts import Sample
from gdo_cli.growth.head_dim import HeadRows
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import attention_projections, find_decoder
from gdo_cli.lm.tokens import Encoded

Array = NDArray[np.float32]
Place = tuple[int, int]  # layer, head
# Keys and values of one pass over many heads, in tokens: 0.3 GB on Gemma 3 270M in fp32, 2.3 GB on 4B. With
# 600 tokens a prompt, passes of twice as many heads took twice as long in all (one core).
PATCH_TOKENS = 8192


class Heads:
    """The base model's N attention heads, which are the same ones in every model made of it.

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
        """Return the norm between output projection and residual stream, if any (Gemma 2 and 3, OLMo 2)."""
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

        def keep(layer: int, _: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[layer] = args[0][:, -1].detach().clone()

        with self._hooked(keep):
            yield seen

    @contextmanager
    def replaced(self, outputs: Sequence[Tensor], rows: Sequence[Place | None]) -> Iterator[None]:
        """In row r of the batch, head ``rows[r]`` gives at the last token what ``outputs`` says.

        Args:
            outputs: per layer, what its projection would read of every head, (W,).
            rows: the head that is replaced in each row; None leaves the row alone.
        """

        def replace(layer: int, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0].clone()
            features = self.features(layer, x.shape[-1]).to(x.device)
            for row, place in enumerate(rows):
                if place and place[0] == layer:
                    own = features[place[1]]
                    x[row, -1, own] = outputs[layer][own].to(x)
            return (x, *args[1:])

        with self._hooked(replace):
            yield

    @contextmanager
    def _hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        with ExitStack() as hooks:
            for layer in range(len(self._layers)):
                hooks.enter_context(self.projection(layer).register_forward_pre_hook(partial(hook, layer)))
            yield

    def contributions(self, layer: int, x_PW: Tensor) -> Tensor:
        """Return what each head adds to the projection's output, its bias apart: (P, W) → (P, H, D)."""
        features = self.features(layer, x_PW.shape[1]).to(x_PW.device)
        # One row per head with all others at zero, and one of zeros, which is the bias.
        alone = x_PW.new_zeros(len(x_PW), self.per_layer + 1, x_PW.shape[1])
        for head in range(self.per_layer):
            alone[:, head, features[head]] = x_PW[:, features[head]]
        out: Tensor = self.projection(layer)(alone).float()
        return out[:, :-1] - out[:, -1:]


@dataclass(frozen=True)
class Measured:
    """What is measured of one model."""

    contributions: Array  # what each head adds at the last token of each clean prompt, (P, N, D)
    effects: Array  # each head's indirect effect on each shuffled prompt, in probability, (E, N)
    clean: Array  # probability of the right answer's first token on each clean prompt, (P,)
    shuffled: Array  # the same on each shuffled prompt, nothing replaced, (E,)


@torch.no_grad()
def in_residual_stream(heads: Heads, measured: Measured, chosen: Collection[int]) -> Array:
    """Return the function vector of the chosen heads as the residual stream receives it, (D,).

    Where a norm follows the output projection (g·x/rms(x)), each head's part passes it at the scale that
    all heads of its layer together have on each prompt. To be called on the model that was measured.
    """
    total = np.zeros(measured.contributions.shape[2], np.float32)
    for layer in range(len(heads) // heads.per_layer):
        here = range(layer * heads.per_layer, (layer + 1) * heads.per_layer)
        part_PD = measured.contributions[:, [i for i in chosen if i in here]].sum(1)
        norm = heads.norm_behind(layer)
        if norm is not None:
            together_PD = measured.contributions[:, here].sum(1)
            gain_D = norm(torch.ones(len(total), device=next(norm.parameters()).device)).float().cpu().numpy()
            part_PD = gain_D * part_PD / np.sqrt(np.square(together_PD).mean(1, keepdims=True))
        total += part_PD.mean(0)
    return total


@torch.no_grad()
def measure(
    lm: AnswerLM, heads: Heads, sample: Sample, advance: Callable[[int], None] = lambda n: None
) -> Measured:
    """Heads' contributions and indirect effects in a model that is the heads' base or made of it.

    Args:
        advance: told the number of prompts done.
    """
    outputs: list[list[Tensor]] = []
    clean = []
    for prompt in sample.clean:
        with heads.captured() as seen:
            hidden = _last_hidden(lm, prompt.context)
        outputs.append([x[0].float() for x in seen])
        clean.append(_probabilities(lm, hidden, prompt)[0])
        advance(1)
    by_layer = [torch.stack(layer) for layer in zip(*outputs, strict=True)]  # L of (P, W)
    with lm.autocast():
        contributions = torch.cat([heads.contributions(i, x) for i, x in enumerate(by_layer)], dim=1)
    means = [x.mean(0) for x in by_layer]
    shuffled, effects = [], []
    for prompt in sample.shuffled:
        before, after = indirect_effects(lm, heads, prompt, means)
        shuffled.append(before)
        effects.append(after)
        advance(1)
    probabilities = (np.array(found, np.float32) for found in (clean, shuffled))
    return Measured(contributions.cpu().numpy(), np.stack(effects), *probabilities)


def indirect_effects(lm: AnswerLM, heads: Heads, prompt: Encoded, means: list[Tensor]) -> tuple[float, Array]:
    """Return the probability of the right answer as it is, and by how much each head changes it, (N,).

    Only the last token is replaced, and no other token sees it: so all others are computed once, and
    the last one again in a batch with a head in each row.
    """
    past = DynamicCache(config=lm.model.config.get_text_config())
    _last_hidden(lm, prompt.context[:-1], past)
    effects: list[float] = []
    places, size = heads.places(), max(1, PATCH_TOKENS // len(prompt.context) - 1)
    for start in range(0, len(places), size):
        # The first row is left alone: what the others are compared with.
        rows = [None, *places[start : start + size]]
        tokens = torch.tensor([prompt.context[-1:]] * len(rows), device=lm.device)
        with heads.replaced(means, rows), lm.autocast():
            hidden = lm.hidden(tokens, torch.arange(len(rows), device=lm.device), _expanded(past, len(rows)))
        before, *after = _probabilities(lm, hidden, prompt)
        effects += [p - before for p in after]
    return before, np.array(effects, np.float32)


def _last_hidden(lm: AnswerLM, tokens: list[int], past: Cache | None = None) -> Tensor:
    """Last hidden state at the last token, (1, D)."""
    with lm.autocast():
        place = torch.tensor([len(tokens) - 1], device=lm.device)
        return lm.hidden(torch.tensor([tokens], device=lm.device), place, past)


def _probabilities(lm: AnswerLM, hidden_RD: Tensor, prompt: Encoded) -> list[float]:
    """Of the right answer's first token, (R)."""
    found: list[float] = lm.logits(hidden_RD).softmax(-1)[:, prompt.continuation[0]].tolist()
    return found


def _expanded(past: DynamicCache, rows: int) -> DynamicCache:
    """The cache of one sequence for a batch that continues it; running the model leaves the cache alone."""
    wide = copy.deepcopy(past)
    for layer in wide.layers:
        layer.keys, layer.values = (t.expand(rows, -1, -1, -1) for t in (layer.keys, layer.values))
    return wide
