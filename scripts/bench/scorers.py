"""Workers that score: WinoGrande by likelihood and by exact match, each by gdo and by a peer.

A step is a tenth of the items; every worker answers with its time and with what it chose, item by item.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.device import compute_dtype, hold_weights
from gdo_cli.lm.scoring import is_exact, score
from gdo_cli.lm.tokens import Encoder, Query, end_ids

PARTS = 10
BATCH = 16  # of the peers
NEW_TOKENS = 8
Steps = Iterator[dict[str, Any]]


def gdo_likelihood(overrides: list[str]) -> Steps:
    """The two completed sentences of every item by gdo's scorer."""
    config, items, lm, encoder = _material(overrides)

    def choose(part: Sequence[list[Query]]) -> list[bool]:
        queries = [encoder(q) for item in part for q in item[1:]]
        scores = score(lm, queries, config.evaluation.token_budget)
        return [a.logprob >= b.logprob for a, b in zip(scores[::2], scores[1::2], strict=True)]

    return _in_parts(items, choose)


def lm_eval(overrides: list[str]) -> Steps:
    """The same pairs by lm-evaluation-harness."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from tokenizers.processors import TemplateProcessing

    _, items, model, encoder = _material(overrides)
    tokenizer: Any = encoder.tokenizer
    if tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:  # the tiny one's; gdo puts it there itself
        bos = tokenizer.bos_token
        begin = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = begin
    harness: Any = HFLM(
        pretrained=model.model,
        tokenizer=tokenizer,
        batch_size=BATCH,
        add_bos_token=True,
        mixed_precision_dtype=model.compute_dtype,
        softmax_dtype="float32",  # in bf16 it cannot tell log-probabilities of -10 apart
    )

    def choose(part: Sequence[list[Query]]) -> list[bool]:
        pairs = [(q.context, q.continuation) for item in part for q in item[1:]]
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        found = [value for value, _ in harness.loglikelihood(requests, disable_tqdm=True)]
        return [a >= b for a, b in zip(found[::2], found[1::2], strict=True)]

    return _in_parts(items, choose)


def gdo_exact(overrides: list[str]) -> Steps:
    """Whether greedy decoding would answer exactly, by one forward pass."""
    config, items, lm, encoder = _material(overrides)

    def answers(part: Sequence[list[Query]]) -> list[bool]:
        queries = [encoder(item[0]) for item in part]
        scores = score(lm, queries, config.evaluation.token_budget)
        return [is_exact(q, s, encoder.answer_ends) for q, s in zip(queries, scores, strict=True)]

    return _in_parts(items, answers)


def generate(overrides: list[str]) -> Steps:
    """The same by transformers' generate, which stops when every answer of the batch has ended."""
    _, items, lm, encoder = _material(overrides)
    ends = encoder.answer_ends

    class Ended(StoppingCriteria):  # type: ignore[misc]
        def __init__(self, width: int) -> None:
            self.width = width

        def __call__(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return torch.tensor([any(i in ends.tokens for i in row) for row in ids[:, self.width :].tolist()])

    def answers(part: Sequence[list[Query]]) -> list[bool]:
        exact = []
        for batch in _batched(part, BATCH):
            queries = [encoder(item[0]) for item in batch]
            width = max(len(q.context) for q in queries)
            rows = [[encoder.eos_id] * (width - len(q.context)) + q.context for q in queries]
            mask = [[0] * (width - len(q.context)) + [1] * len(q.context) for q in queries]
            with torch.no_grad(), lm.autocast():
                out = lm.model.generate(
                    input_ids=torch.tensor(rows),
                    attention_mask=torch.tensor(mask),
                    max_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    pad_token_id=encoder.eos_id,
                    stopping_criteria=StoppingCriteriaList([Ended(width)]),
                )
            for q, ids in zip(queries, out[:, width:].tolist(), strict=True):
                stop = next((n for n, i in enumerate(ids) if i in ends.tokens), None)
                exact.append(stop is not None and ids[:stop] == q.continuation)
        return exact

    return _in_parts(items, answers)


def _in_parts(items: list[list[Query]], do: Callable[[Sequence[list[Query]]], list[bool]]) -> Steps:
    yield {}
    for part in _batched(items, -(-len(items) // PARTS)):
        began = time.perf_counter()
        outcomes = do(part)
        yield {"seconds": time.perf_counter() - began, "items": len(part), "outcomes": outcomes}


def _batched(items: Sequence[list[Query]], n: int) -> Iterator[Sequence[list[Query]]]:
    return (items[start : start + n] for start in range(0, len(items), n))


def _material(overrides: list[str]) -> tuple[RunConfig, list[list[Query]], AnswerLM, Encoder]:
    """The queries of WinoGrande's items (exact match, first, second option) and the base model."""
    common = ["experiment=protocol", "task=scitail", "probe=winogrande", "method=frozen"]
    config = load_run([*common, *overrides])
    rows, shots = read_run_data(config).probes["winogrande"]
    loaded = config.model.load()
    loaded.model.requires_grad_(False)
    dtype = compute_dtype(config.train.precision, torch.device("cpu"))
    hold_weights(loaded.model, dtype)
    encoder = Encoder.of(loaded.tokenizer, end_ids(loaded.model))
    queries = [config.probe["winogrande"].queries(row, shots) for row in rows]
    return config, queries, AnswerLM(loaded.model, dtype).eval(), encoder
