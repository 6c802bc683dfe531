"""From the untouched model to the one that trains, checked to compute the same before the first step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.experiment.reopen import Opened
from gdo_cli.experiment.weights import prepare
from gdo_cli.lm.agreement import TOLERANCE, answer_logits
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import text_parameters
from gdo_cli.lm.device import hold_weights
from gdo_cli.methods.parameters import count_parameters
from gdo_cli.runs.record import Parameters
from gdo_cli.support.console import note
from gdo_cli.support.errors import RunFailed, UserError, first_line
from gdo_cli.training.optimizers import rate_factors
from gdo_cli.training.updates import UpdateTracker

# Growth by k = 2 is exact. Other factors round, as 1/k is no binary fraction: for these, TOLERANCE.
# In fp32, torch computes the elements of an activation that fill no vector register with other code,
# and which those are depends on the number of threads: 1e-7 to 1e-6 in the logits. bf16 hides it.
EXACT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.0}  # times the largest logit


def prepare_model(
    opened: Opened,
    evaluator: Evaluator,
    layers: list[int] | None,
    see_base: Callable[[AnswerLM], None] = lambda lm: None,
) -> tuple[AnswerLM, UpdateTracker, Parameters]:
    """Measure the base where it is to be compared with, let the method change it, and compare.

    Args:
        layers: decoder layers to work on; None for all.
        see_base: called with the base, before the method changes it in place.
    Returns:
        The model that trains, what follows its matrices, and how many parameters the method added.
    Raises:
        UserError: the method does not go with this model, or ``train.lr_scale`` with what trains.
        RunFailed: the method has changed the model's function.
    """
    config, base, dtype = opened.config, opened.loaded.model, opened.dtype
    base_lm = opened.base()
    evaluator.remember_base(base_lm)
    see_base(base_lm)
    prompts = evaluator.check_prompts()
    before = answer_logits(base_lm, prompts)
    n_base = sum(p.numel() for p in text_parameters(base).values())
    try:
        model = prepare(config.method, base, layers)
    except ValueError as error:
        raise UserError(f"method={config.name['method']}: {error}") from error
    rate_factors(model.named_parameters(), config.train.lr_scale)  # names that nothing has are refused now
    hold_weights(model, dtype)
    updates = UpdateTracker(model.to(opened.device), config.evaluation.ranks)
    lm = AnswerLM(model, dtype)
    if config.method.preserves:
        try:
            after = answer_logits(lm, prompts)
        except (RuntimeError, TypeError, ValueError) as error:  # heads not read off the widths; Poly's tasks
            reason = f"{type(base).__name__} cannot run so changed ({first_line(error)})"
            raise UserError(f"method={config.name['method']}: {reason}") from error
        check_preserved(before, after, config.method.exact(), dtype)
    return lm, updates, count_parameters(model, n_base)


def check_preserved(before: Tensor, after: Tensor, exact: bool, dtype: torch.dtype) -> None:
    """The grown model must compute what the base computes, on real prompts, before step 0.

    Raises:
        RunFailed: it does not.
    """
    worst = float((before - after).abs().max())
    allowed = EXACT_TOLERANCE[dtype] * float(before.abs().max()) if exact else TOLERANCE[dtype]
    if not worst <= allowed:
        raise RunFailed(
            f"the prepared model differs from the base by up to {worst:.3g} in its logits ({allowed:g} "
            "allowed): the method does not preserve this model's function"
        )
    note(f"function preserved: largest difference of logits {worst:g}")
