"""From the untouched model to the one that trains, checked to compute the same before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.experiment.guards import answer_logits, check_forward, check_preserved
from gdo_cli.experiment.weights import prepare
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.device import hold_weights
from gdo_cli.lm.parameters import text_parameters
from gdo_cli.lm.tokens import Encoded
from gdo_cli.methods.parameters import count_parameters
from gdo_cli.runs.run_record import Parameters
from gdo_cli.support.errors import UserError, first_line
from gdo_cli.training.updates import UpdateTracker


@dataclass
class Prepared:
    """A model that is ready to train.

    Attributes:
        updates: follows how far its matrices move.
        parameters: how many the method added and trains.
    """

    lm: AnswerLM
    updates: UpdateTracker
    parameters: Parameters


def prepare_model(
    config: RunConfig,
    base: PreTrainedModel,
    layers: list[int] | None,
    evaluator: Evaluator,
    device: torch.device,
    dtype: torch.dtype,
    see_base: Callable[[AnswerLM], None] = lambda lm: None,
) -> Prepared:
    """Measure the base where it is to be compared with, let the method change it, and compare.

    Args:
        layers: decoder layers to work on; None for all.
        dtype: of matrix products.
        see_base: called with the base, before the method changes it in place.
    Raises:
        UserError: the method does not go with this model.
        RunFailed: the model's logits are not its own, or the method has changed its function.
    """
    method, name = config.method, config.name["method"]
    base.requires_grad_(False)
    hold_weights(base, dtype)
    base_lm = AnswerLM(base.to(device), dtype)
    evaluator.remember_base(base_lm)
    see_base(base_lm)
    prompts = evaluator.check_prompts()
    before = answer_logits(base_lm, prompts)
    check_forward(base_lm, prompts)
    n_base = sum(p.numel() for p in text_parameters(base).values())
    try:
        model = prepare(method, base, layers)
    except ValueError as error:
        raise UserError(f"method={name}: {error}") from error
    hold_weights(model, dtype)
    updates = UpdateTracker(model.to(device), config.evaluation.ranks)
    parameters = count_parameters(model, n_base)
    lm = AnswerLM(model, dtype)
    if method.preserves:
        check_preserved(before, _logits_after(lm, prompts, name, base), method.exact(), dtype)
    return Prepared(lm, updates, parameters)


def _logits_after(lm: AnswerLM, prompts: list[Encoded], method: str, base: PreTrainedModel) -> torch.Tensor:
    try:
        return answer_logits(lm, prompts)
    except RuntimeError as error:  # e.g. attention that does not read its heads off the widths
        kind = type(base).__name__
        raise UserError(f"method={method}: {kind} cannot run so changed ({first_line(error)})") from error
