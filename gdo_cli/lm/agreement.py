"""What gdo computes of a model is what the model computes itself: measured on every path, before use."""

from __future__ import annotations

import torch
from torch import Tensor

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import pad
from gdo_cli.lm.scoring import WORTH_CACHE, score
from gdo_cli.lm.tokens import Encoded
from gdo_cli.support.errors import RunFailed, first_line

# Of logits, where rounding is not the same: 2^-8 (bf16) or 2^-23 (fp32) a product adds up over the layers.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
# Of the spread of the logits over the vocabulary. In bf16, Gemma 3 270M's change by 0.01 to 0.08 with how
# sequences are batched, by rounding alone.
APART = {torch.float32: 1e-3, torch.bfloat16: 0.25}


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
    may reach another one, beside it in a batch or with a beginning in common.

    Raises:
        RunFailed: they are not, one does, or the model does not run at all.
    """
    model = type(lm.model).__name__
    try:
        _check_head(lm, prompts[0], model)
        _check_batch(lm, prompts, model)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        raise RunFailed(f"{model}: gdo cannot run it ({type(e).__name__}: {first_line(e)})") from e


def _check_head(lm: AnswerLM, prompt: Encoded, model: str) -> None:
    lm.eval()
    ids = torch.tensor([prompt.context], device=lm.device)
    with lm.autocast():
        own = lm.model(input_ids=ids).logits[0, -1].float()
    ours = answer_logits(lm, [prompt])[0]
    worst = float((own - ours).abs().max())
    if not worst <= TOLERANCE[lm.compute_dtype] * max(1.0, float(own.abs().max()) / 10):
        raise RunFailed(
            f"{model}: logits computed for answers alone differ from the model's own by {worst:.2g}; its "
            "head does more than gdo knows of"
        )


def _check_batch(lm: AnswerLM, prompts: list[Encoded], model: str) -> None:
    pair = prompts[:2]
    alone = torch.cat([answer_logits(lm, [prompt]) for prompt in pair])
    try:
        change = (answer_logits(lm, pair) - alone).norm(dim=1) / alone.std(dim=1) / alone.shape[1] ** 0.5
    except TypeError as error:
        raise RunFailed(f"{model}: its attention does not take packed sequences ({error})") from error
    allowed, worst = APART[lm.compute_dtype], float(change.max())
    rounded = lm.compute_dtype != torch.float32
    cause = "its tokens look across sequences by more than attention"
    cause += ", or it rounds too coarsely (experts that are chosen anew): try train.precision=fp32" * rounded
    if not worst <= allowed:
        raise RunFailed(
            f"{model}: a prompt's logits change by {worst:.0%} with the prompt beside it; {cause}"
        )
    together = _family(prompts)
    found = [one.logprob for one in score(lm, together, sum(map(len, together)))]
    single = [score(lm, [query], len(query))[0].logprob for query in together[:1]]
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, single, strict=False))
    if not worst <= allowed:
        raise RunFailed(
            f"{model}: a prompt's likelihood changes by {worst:.0%} where others begin like it; {cause}"
        )


def _family(prompts: list[Encoded]) -> list[Encoded]:
    """Queries with so long a beginning in common that it is computed once for all of them."""
    tokens = [token for prompt in prompts for token in (*prompt.context, *prompt.continuation)]
    common, members = WORTH_CACHE
    start = (tokens * common)[:common]
    return [Encoded([*start, tokens[n % len(tokens)]], tokens[-2:]) for n in range(members)]
