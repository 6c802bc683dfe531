"""How much each token counts in the loss, by what the model makes of it now: ``train.token_weights``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.training.config import TrainConfig

Weigh = Callable[[Tensor, float], Tensor]


def dft(probability_N: Tensor, _: float) -> Tensor:
    """The token's own probability, without gradient, as in Dynamic Fine-Tuning (Yongliang Wu et al., 2025).

    L = −Σ sg(p) · log p: what the model holds for unlikely no longer pulls the hardest.
    """
    return probability_N


def likely(probability_N: Tensor, least: float) -> Tensor:
    """1 for tokens that the model gives ``least`` or more, 0 for the others.

    Selective token masking (Chao-Chung Wu et al., 2025) by the model as it stands; they mask by the base's
    perplexity, 2.5, which is a probability of 0.4.
    """
    return (probability_N >= least).to(probability_N.dtype)


WEIGHTS: dict[str, Weigh] = {"dft": dft, "likely": likely}


def token_weights(lm: AnswerLM, hidden_ND: Tensor, targets_N: Tensor, config: TrainConfig) -> Tensor | None:
    """Return the weight of each target, without gradient; None where all count alike."""
    if config.token_weights == "equal":
        return None
    logprob_N, _ = lm.predict(hidden_ND.detach(), targets_N)
    return WEIGHTS[config.token_weights](logprob_N.exp(), config.least_probability)
