"""Log-likelihoods, one-pass exact match and generation.

Shapes: B sequences, T tokens, D width, V vocabulary, N scored positions in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedModel

from gdo_cli.lastlayer import last_mlp_at
from gdo_cli.packing import can_pack, only_attends, packed_places, run_packed
from gdo_cli.prefixes import packs, shared_prefixes
from gdo_cli.tokens import Encoded, Encoder
from gdo_cli.vocabulary import Head, read_pieces

# Vocabulary logits are the largest tensors by far (262,144 of them a position on Gemma 3): they are
# made for so many positions at a time.
HEAD_ROWS = 512
LOSS_ROWS = 64  # the same while training, where a gradient is kept for each
# From how many common tokens, and how many that have them in common, a prefix is worth a cache of its
# own; and where it only has to stand in the same packed row.
WORTH_CACHE = (48, 4)
WORTH_PACKING = (8, 2)


class AnswerLM(nn.Module):
    """A language model that gives logits only where they are asked for.

    The decoder runs on whole sequences; the head, whose product outweighs a small decoder's, runs on
    the chosen positions. Right padding needs no mask: a causal model never sees what comes after.
    """

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype
        self._head = Head(compute_dtype)
        self.pieces: list[Any] = []  # the modules whose weights lie in pieces over processes (FSDP2)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def autocast(self) -> torch.autocast:
        """bf16 compute on fp32 masters; a no-op in fp32."""
        mixed = self.compute_dtype != torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed)

    def hidden(
        self,
        input_ids_BT: Tensor,
        positions_N: Tensor,
        past: Cache | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Last hidden states at flat positions b·T + t of the batch, (N, D).

        Args:
            past: keys and values of what comes before every sequence of the batch.
            lengths: tokens of each sequence without its padding; saves computing the latter.
        """
        decoder = self.model.get_decoder()
        self._head.expect(self.model.get_input_embeddings(), self.model.get_output_embeddings())
        if lengths is None or past is not None:
            out = decoder(input_ids=input_ids_BT, past_key_values=past, use_cache=past is not None)
            # 2-D on purpose: a 3-D slice makes the head expand its weight per row.
            return out[0].flatten(0, 1)[positions_N]
        rows = [row[:n] for row, n in zip(input_ids_BT.tolist(), lengths, strict=True)]
        packed = len(rows) > 1 and can_pack(self.model)
        places_N = packed_places(positions_N, input_ids_BT.shape[1], lengths) if packed else positions_N
        with last_mlp_at(self.model, places_N):
            if packed:
                return run_packed(decoder, rows, [-1] * len(rows), self.device)[places_N]
            return decoder(input_ids=input_ids_BT, use_cache=False)[0].flatten(0, 1)[places_N]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Vocabulary logits in fp32, (N, V)."""
        return self._capped(self._head(hidden_ND, self.model.get_output_embeddings()))

    def _capped(self, logits_NV: Tensor) -> Tensor:
        cap = self._cap
        return (cap * torch.tanh(logits_NV.float() / cap)) if cap else logits_NV.float()

    @property
    def _cap(self) -> float | None:
        return getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)

    @torch.no_grad()
    def predict(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each target, in nats, and the likeliest token there, (N,) both."""
        pieces = self._head.in_pieces(hidden_ND, self.model.get_output_embeddings())
        found = read_pieces(((start, self._capped(part)) for start, part in pieces), targets_N)
        at_target_N, log_sum_N, likeliest_N = found
        return at_target_N - log_sum_N, likeliest_N

    def head_weight(self) -> Tensor:
        """The head's weight in the compute dtype, (V, D)."""
        return self._head.weight(self.model.get_output_embeddings().weight)

    def weights_changed(self) -> None:
        """To be called after every optimizer step."""
        self._head.forget()

    def forward(
        self, input_ids_BT: Tensor, positions_N: Tensor, lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Logits at the given flat positions, (N, V)."""
        with self.autocast():
            hidden_ND = self.hidden(input_ids_BT, positions_N, lengths=lengths)
        with torch.autocast(self.device.type, enabled=False):
            return self.logits(hidden_ND)

    def loss(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Summed cross-entropy, in nats, of the targets given last hidden states.

        Logits are made in pieces, and made again for their gradient: those of 400 positions, with what
        comes of them on the way, would take 2 GB with Gemma's vocabulary.
        """
        head = self.model.get_output_embeddings()
        if self._cap is None and self._head.sums_in_pieces(head):
            return self._head.cross_entropy(hidden_ND, targets_N, head)

        def part(hidden: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self.logits(hidden), targets, reduction="sum")

        if len(targets_N) <= LOSS_ROWS:
            return part(hidden_ND, targets_N)
        pieces = zip(hidden_ND.split(LOSS_ROWS), targets_N.split(LOSS_ROWS), strict=True)
        return torch.stack([checkpoint(part, h, t, use_reentrant=False) for h, t in pieces]).sum()


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


def is_exact(query: Encoded, scored: Scored, ends: frozenset[int]) -> bool:
    """Whether greedy decoding would answer exactly the continuation and then stop.

    It would if and only if each token, and a token that ends an answer after it, is the likeliest
    given those before: one pass replaces generation (tests prove it against ``generate``).
    """
    n = len(query.continuation)
    return query.ends and scored.argmax[:n] == query.continuation and scored.argmax[n] in ends


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
    contexts, lengths = [q.context for q in queries], [len(q) for q in queries]
    results: dict[int, Scored] = {}
    if can_pack(lm.model):
        families = shared_prefixes(contexts, *WORTH_PACKING)
        for pack in packs(families, lengths, token_budget):
            results |= _score_packed(lm, queries, pack)
            advance(sum(len(members) for _, members in pack))
        return [results[i] for i in range(len(queries))]
    families = [(0, list(range(len(queries))))]
    if only_attends(lm.model.config):
        families = shared_prefixes(contexts, *WORTH_CACHE)
    for length, members in families:
        past = _prefill(lm, contexts[members[0]][:length])
        for batch in by_length([lengths[i] for i in members], token_budget):
            chosen = [members[i] for i in batch]
            results |= _score_padded(lm, queries, chosen, length, past)
            advance(len(batch))
    return [results[i] for i in range(len(queries))]


def _score_packed(
    lm: AnswerLM, queries: Sequence[Encoded], pack: Sequence[tuple[int, list[int]]]
) -> dict[int, Scored]:
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
    places_N = torch.tensor(places, device=lm.device)
    with lm.autocast(), last_mlp_at(lm.model, places_N):
        hidden_ND = run_packed(lm.model.get_decoder(), segments, parents, lm.device)[places_N]
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
        lm.model.get_decoder()(input_ids=pad([prefix]).to(lm.device), past_key_values=past, use_cache=True)
    return past


@torch.no_grad()
def generate(
    lm: AnswerLM,
    encoder: Encoder,
    contexts: Sequence[list[int]],
    ends: frozenset[int],
    max_new_tokens: int,
    token_budget: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """Greedy answers in text, each cut at the first token in ``ends``.

    By the likeliest token alone: what the model's own generation settings add to that (a penalty on
    repetition, say) is left out, as in one-pass exact match.
    """
    results: dict[int, str] = {}
    pad_id = encoder.eos_id
    for batch in by_length([len(c) + max_new_tokens for c in contexts], token_budget):
        width = max(len(contexts[i]) for i in batch)
        rows = [[pad_id] * (width - len(contexts[i])) + contexts[i] for i in batch]
        mask = [[0] * (width - len(contexts[i])) + [1] * len(contexts[i]) for i in batch]
        with lm.autocast(), _plain_generation(lm.model):
            out = lm.model.generate(
                input_ids=torch.tensor(rows, device=lm.device),
                attention_mask=torch.tensor(mask, device=lm.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(ends),
                pad_token_id=pad_id,
            )
        for index, ids in zip(batch, out[:, width:].tolist(), strict=True):
            results[index] = encoder.parse(ids, ends)
        advance(len(batch))
    return [results[i] for i in range(len(contexts))]


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def pad(rows: Sequence[list[int]]) -> Tensor:
    """Token lists as one right-padded (B, T) tensor."""
    width = max(len(row) for row in rows)
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def by_length(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, so that memory is known at the start."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
