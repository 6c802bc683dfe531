"""How far hidden states have moved, layer by layer: linear CKA and cosine.

Shapes: L layers, M places in all texts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.stats.outcomes import Mean, Outcome, mean

# Places of a kind of text in all: CKA needs more of them than there are dimensions, and each takes
# L·D numbers (46 kB on Gemma 3 270M, 350 kB on 4B) until the tuned model has been asked too.
MOST_PLACES = 2048


@dataclass(frozen=True)
class HiddenStates:
    """What every layer gives at some places of some texts.

    Attributes:
        states: (L, M, D).
        texts: which text each place is in, (M,).
    """

    states: NDArray[np.float32]
    texts: NDArray[np.intp]


@torch.no_grad()
def hidden_states(
    lm: AnswerLM,
    layers: Sequence[nn.Module],
    texts: Sequence[list[int]],
    advance: Callable[[int], None] = lambda n: None,
) -> HiddenStates:
    """Return the outputs of the given layers, which may stand anywhere in the model, at places of the texts.

    The first token is left out: it sees nothing but itself, is the same everywhere, and its states are
    so large that they would outweigh all others.
    """
    found, owners = [], []
    for index, tokens in enumerate(texts):
        chosen = places(len(tokens), max(1, MOST_PLACES // len(texts)))
        with outputs(layers) as seen, lm.autocast():
            lm.hidden(torch.tensor([tokens], device=lm.device), torch.tensor([0], device=lm.device))
        found.append(torch.stack([x[0, chosen].float() for x in seen]).cpu().numpy())
        owners += [index] * len(chosen)
        advance(1)
    return HiddenStates(np.concatenate(found, axis=1), np.array(owners))


def places(length: int, most: int) -> list[int]:
    """At most so many places, spread evenly from the second token to the last one."""
    n = min(most, length - 1)
    return [round(1 + (length - 2) * (i + 1) / n) if n < length - 1 else 1 + i for i in range(n)]


@contextmanager
def outputs(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The hidden states, (B, T, D), that each layer gives in a forward pass."""
    seen = [torch.empty(0)] * len(layers)

    def keep(index: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            seen[index] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [layer.register_forward_hook(keep(index)) for index, layer in enumerate(layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def linear_cka(x_MD: NDArray[np.float32], y_MD: NDArray[np.float32]) -> float:
    """‖YᵀX‖² / (‖XᵀX‖·‖YᵀY‖), Frobenius, of centred columns (Kornblith et al., 2019, equation 3).

    1 for equal states, also after rotation and isotropic scaling. Directions of large variance decide
    it, which in language models are few. NaN where one of them does not vary at all.
    """
    x, y = (a.astype(np.float64) - a.mean(0, dtype=np.float64) for a in (x_MD, y_MD))
    cross, own_x, own_y = (np.linalg.norm(a.T @ b) for a, b in ((y, x), (x, x), (y, y)))
    return float(cross**2 / (own_x * own_y)) if own_x and own_y else float("nan")


def mean_cosine(x_MD: NDArray[np.float32], y_MD: NDArray[np.float32], texts_M: NDArray[np.intp]) -> Mean:
    """Return the mean over places of the cosine of the two states, with the standard error over texts."""
    x, y = x_MD.astype(np.float64), y_MD.astype(np.float64)
    cosines = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    groups = [cosines[texts_M == text] for text in np.unique(texts_M)]
    return mean([Outcome(float(group.mean()), len(group)) for group in groups])


def drift_by_layer(base: HiddenStates, tuned: HiddenStates) -> dict[str, Any]:
    """CKA and mean cosine between two models' states at the same places, for every layer."""
    pairs = list(zip(base.states, tuned.states, strict=True))
    cosines = [mean_cosine(x, y, base.texts) for x, y in pairs]
    return {
        "texts": len(np.unique(base.texts)),
        "places": len(base.texts),
        "cka": [linear_cka(x, y) for x, y in pairs],
        "cosine": [m.value for m in cosines],
        "cosine_se": [m.se for m in cosines],
    }
