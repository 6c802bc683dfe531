"""From the untouched model to the one that trains, checked to compute the same before the first step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.experiment.reopen import Opened
from gdo_cli.experiment.weights import prepare
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import pad
from gdo_cli.lm.decoder import text_parameters
from gdo_cli.lm.device import hold_weights
from gdo_cli.lm.tokens import Encoded
from gdo_cli.methods.parameters import count_parameters
from gdo_cli.runs.record import Parameters
from gdo_cli.support.console import note
from gdo_cli.support.errors import RunFailed, UserError, first_line
from gdo_cli.training.optimizers import rate_factors
from gdo_cli.training.updates import UpdateTracker

# Growth by k = 2 is exact. Other factors round: 1/k is no binary fraction, and a relative error of
# 2^-8 (bf16) or 2^-23 (fp32) a product adds up over the layers.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
# In fp32, torch computes the elements of an activation that fill no vector register with other code,
# and which those are depends on the number of threads: 1e-7 to 1e-6 in the logits. bf16 hides it.
EXACT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.0}  # times the largest logit

# Of the spread of the logits over the vocabulary. In bf16, Gemma 3 270M's change by 0.01 to 0.08 with how
# sequences are batched, by rounding alone.
APART = {torch.float32: 1e-3, torch.bfloat16: 0.25}


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
        RunFailed: the model's logits are not its own, or the method has changed its function.
    """
    config, base, dtype = opened.config, opened.loaded.model, opened.dtype
    base_lm = opened.base()
    evaluator.remember_base(base_lm)
    see_base(base_lm)
    prompts = evaluator.check_prompts()
    before = answer_logits(base_lm, prompts)
    check_forward(base_lm, prompts)
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
        except RuntimeError as error:  # e.g. attention that does not read its heads off the widths
            reason = f"{type(base).__name__} cannot run so changed ({first_line(error)})"
            raise UserError(f"method={config.name['method']}: {reason}") from error
        check_preserved(before, after, config.method.exact(), dtype)
    return lm, updates, count_parameters(model, n_base)


@torch.no_grad()
def answer_logits(lm: AnswerLM, prompts: list[Encoded]) -> Tensor:
    """Return logits wherever an answer token is predicted, (N, V)."""
    lm.eval()
    rows = [p.context + p.continuation for p in prompts]
    width = max(map(len, rows))
    places = [b * width + t for b, p in enumerate(prompts) for t in range(len(p.context) - 1, len(p))]
    lengths = [len(row) for row in rows]
    return lm(pad(rows).to(lm.device), torch.tensor(places, device=lm.device), lengths)


@torch.no_grad()
def check_forward(lm: AnswerLM, prompts: list[Encoded]) -> None:
    """Answer-only logits must be what the model's own forward gives (heads differ by family), and no prompt
    may reach another one of its batch.

    Raises:
        RunFailed: they are not, or one does.
    """
    model = type(lm.model).__name__
    ids = torch.tensor([prompts[0].context], device=lm.device)
    with lm.autocast():
        own = lm.model(input_ids=ids).logits[0, -1].float()
    ours = answer_logits(lm, prompts[:1])[0]
    worst = float((own - ours).abs().max())
    if worst > TOLERANCE[lm.compute_dtype] * max(1.0, float(own.abs().max()) / 10):
        raise RunFailed(
            f"{model}: logits computed for answers alone differ from the model's own by {worst:.2g}; its "
            "head does more than gdo knows of"
        )
    pair = prompts[:2]
    alone = torch.cat([answer_logits(lm, [prompt]) for prompt in pair])
    try:
        change = (answer_logits(lm, pair) - alone).norm(dim=1) / alone.std(dim=1) / alone.shape[1] ** 0.5
    except TypeError as error:
        raise RunFailed(f"{model}: its attention does not take packed sequences ({error})") from error
    if not float(change.max()) <= APART[lm.compute_dtype]:
        raise RunFailed(
            f"{model}: a prompt's logits change by {float(change.max()):.0%} with the prompt beside it; its "
            "tokens look across sequences by more than attention"
        )


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
