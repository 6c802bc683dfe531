"""Function vectors (Todd et al., 2024; paper, section 4.5 and appendix B): what is measured of a model.

1. The mean output ā of every head at the last token of prompts that show the task.
2. Its causal indirect effect: on prompts whose examples have shuffled answers, how much likelier the
   right answer becomes when the head gives ā instead of what it gives.
3. The function vector: the sum, over the heads of largest mean effect, of what ā adds through the
   output projection.

Shapes: P clean prompts, E shuffled ones, N heads of all layers, D width, R rows of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, DynamicCache

from gdo_cli.commands.analyze.heads import Heads, Place
from gdo_cli.commands.analyze.prompts import Sample
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.tokens import Encoded

Array = NDArray[np.float32]
# Keys and values of one pass over many heads, in tokens: 0.3 GB on Gemma 3 270M in fp32, 2.3 GB on 4B. With
# 600 tokens a prompt, passes of twice as many heads took twice as long in all (one core).
PATCH_TOKENS = 8192


@dataclass(frozen=True)
class Measured:
    """What is measured of one model.

    Attributes:
        contributions: what each head adds at the last token of each clean prompt, (P, N, D).
        effects: each head's indirect effect on each shuffled prompt, a difference of probabilities, (E, N).
        clean: probability of the right answer's first token on each clean prompt, (P,).
        shuffled: the same on each shuffled prompt, nothing replaced, (E,).
    """

    contributions: Array
    effects: Array
    clean: Array
    shuffled: Array


@torch.no_grad()
def in_residual_stream(heads: Heads, measured: Measured, chosen: Sequence[int]) -> Array:
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
    return Measured(
        contributions.cpu().numpy(),
        np.stack(effects),
        np.array(clean, np.float32),
        np.array(shuffled, np.float32),
    )


def indirect_effects(lm: AnswerLM, heads: Heads, prompt: Encoded, means: list[Tensor]) -> tuple[float, Array]:
    """Return the probability of the right answer as it is, and by how much each head changes it, (N,).

    Only the last token is replaced, and no other token sees it: so all others are computed once, and
    the last one again in a batch with a head in each row.
    """
    past = DynamicCache(config=lm.model.config.get_text_config())
    _last_hidden(lm, prompt.context[:-1], past)
    effects: list[float] = []
    for places in _batches(heads.places(), max(1, PATCH_TOKENS // len(prompt.context) - 1)):
        rows = [None, *places]  # the first row is left alone: what the others are compared with
        tokens = torch.tensor([prompt.context[-1:]] * len(rows), device=lm.device)
        with heads.replaced(means, rows), lm.autocast():
            hidden = lm.hidden(tokens, torch.arange(len(rows), device=lm.device), _expanded(past, len(rows)))
        before, *after = _probabilities(lm, hidden, prompt)
        effects += [p - before for p in after]
    return before, np.array(effects, np.float32)


def _batches(places: list[Place], size: int) -> Iterator[list[Place]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


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
