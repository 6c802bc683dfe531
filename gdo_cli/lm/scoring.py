"""Log-likelihoods and one-pass exact match.

Shapes: B sequences, T tokens, D width, V vocabulary, N scored positions in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import Family, by_length, packs, pad, shared_prefixes
from gdo_cli.lm.compat import only_attends
from gdo_cli.lm.decoder import text_decoder
from gdo_cli.lm.packing import CannotPack, can_pack
from gdo_cli.lm.tokens import Encoded, Ends

# Vocabulary logits are the largest tensors by far (262,144 of them a position on Gemma 3): they are
# made for so many positions at a time.
HEAD_ROWS = 512
# From how many common tokens, and how many that have them in common, a prefix is worth a cache of its
# own; and where it only has to stand in the same packed row.
WORTH_CACHE = (48, 4)
WORTH_PACKING = (8, 2)


@dataclass(frozen=True)
class Scored:
    """What the model says of one query with n continuation tokens.

    Attributes:
        logprobs: log-probability of each continuation token, in nats (n of them).
        argmax: likeliest token at each place of the continuation and, where that is asked, at the one
            after it (n + 1).
    """

    logprobs: list[float]
    argmax: list[int]

    @property
    def logprob(self) -> float:
        return sum(self.logprobs)


def is_exact(query: Encoded, scored: Scored, ends: Ends) -> bool:
    """Return whether greedy decoding would answer exactly the continuation and then stop.

    It would if and only if each token, and a token that ends an answer after it or with it, is the likeliest
    given those before: one pass replaces generation (tests prove it against ``generate``).
    """
    return query.ends and ends.complete(query.continuation, scored.argmax)


@torch.no_grad()
def score(
    lm: AnswerLM,
    queries: Sequence[Encoded],
    token_budget: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Scored]:
    """Score every query, in batches of similar length.

    Args:
        token_budget: tokens of one batch, padding included.
        advance: told the number of queries done after each batch.
    Returns:
        One result per query, in the order given.
    """
    if can_pack(lm.model):
        with suppress(CannotPack):
            return _in_packs(lm, queries, token_budget, advance)
    contexts, lengths = [q.context for q in queries], [len(q) for q in queries]
    results: dict[int, Scored] = {}
    families = [(0, list(range(len(queries))))]
    if only_attends(text_decoder(lm.model)):
        families = shared_prefixes(contexts, *WORTH_CACHE)
    for length, members in families:
        past = _prefill(lm, contexts[members[0]][:length])
        for batch in by_length([lengths[i] for i in members], token_budget):
            chosen = [members[i] for i in batch]
            results |= _score_padded(lm, queries, chosen, length, past)
            advance(len(batch))
    return [results[i] for i in range(len(queries))]


def _in_packs(
    lm: AnswerLM, queries: Sequence[Encoded], token_budget: int, advance: Callable[[int], None]
) -> list[Scored]:
    results: dict[int, Scored] = {}
    families = shared_prefixes([q.context for q in queries], *WORTH_PACKING)
    for pack in packs(families, [len(q) for q in queries], token_budget):
        results |= _score_packed(lm, queries, pack)
        advance(sum(len(members) for _, members in pack))
    return [results[i] for i in range(len(queries))]


def _score_packed(lm: AnswerLM, queries: Sequence[Encoded], pack: list[Family]) -> dict[int, Scored]:
    """Score families of queries, each with its common prefix, in one row without padding."""
    segments: list[list[int]] = []
    parents: list[int] = []
    places: list[int] = []
    start = 0  # tokens in the row so far
    for common, members in pack:
        parent = -1
        if common:
            parent = len(segments)
            segments.append(queries[members[0]].context[:common])
            parents.append(-1)
            start += common
        for index in members:
            q = queries[index]
            segments.append((q.context + q.continuation)[common:])
            parents.append(parent)
            places += [start - common + place for place in q.asked]
            start += len(q) - common
    with lm.autocast():
        hidden_ND = lm.hidden_packed(segments, parents, torch.tensor(places, device=lm.device))
    return _read(lm, hidden_ND, queries, [i for _, members in pack for i in members])


def _score_padded(
    lm: AnswerLM, queries: Sequence[Encoded], chosen: list[int], common: int, past: Cache | None
) -> dict[int, Scored]:
    """Score queries whose first ``common`` tokens are in the cache."""
    rests = [replace(queries[i], context=queries[i].context[common:]) for i in chosen]
    input_ids_BT = pad([q.context + q.continuation for q in rests]).to(lm.device)
    width = input_ids_BT.shape[1]
    positions = [row * width + t for row, q in enumerate(rests) for t in q.asked]
    if past is not None:  # running the model appends to the cache, so each batch gets its own
        past = copy.deepcopy(past)
        past.batch_repeat_interleave(len(rests))
    with lm.autocast():
        hidden_ND = lm.hidden(input_ids_BT, torch.tensor(positions, device=lm.device), past)
    return _read(lm, hidden_ND, queries, chosen)


def _read(
    lm: AnswerLM, hidden_ND: Tensor, queries: Sequence[Encoded], chosen: list[int]
) -> dict[int, Scored]:
    """Scores of the chosen queries from their hidden states, one for each place that is asked."""
    # The place after a continuation has no target; a zero stands in and is dropped below.
    targets = [t for i in chosen for t in (*queries[i].continuation, *([0] if queries[i].ends else []))]
    logprobs: list[float] = []
    argmax: list[int] = []
    targets_N = torch.tensor(targets, device=hidden_ND.device)
    for rows in torch.arange(len(targets)).split(HEAD_ROWS):
        found = lm.predict(hidden_ND[rows], targets_N[rows])
        logprobs += found[0].tolist()
        argmax += found[1].tolist()
    results, start = {}, 0
    for i in chosen:
        n, asked = len(queries[i].continuation), len(queries[i].asked)
        results[i] = Scored(logprobs[start : start + n], argmax[start : start + asked])
        start += asked
    return results


def _prefill(lm: AnswerLM, prefix: list[int]) -> Cache | None:
    """Keys and values of a prefix, computed once for all that begin with it."""
    if not prefix:
        return None
    past = DynamicCache(config=lm.model.config.get_text_config())
    with lm.autocast():
        text_decoder(lm.model)(input_ids=pad([prefix]).to(lm.device), past_key_values=past, use_cache=True)
    return past
