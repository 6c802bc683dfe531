"""Log-likelihoods, one-pass exact match and generation.

Shapes: B sequences, T tokens, D width, V vocabulary, N scored positions in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, PreTrainedModel

from gdo_cli.frozenprefix import FrozenPrefix
from gdo_cli.packing import can_pack, packed_places, run_packed
from gdo_cli.prefixes import packs, shared_prefixes
from gdo_cli.tokens import Encoded, Encoder
from gdo_cli.vocabulary import Head

# Vocabulary logits are the largest tensors by far (262,144 of them a position on Gemma 3): they are
# made for so many positions and tokens of the vocabulary at a time.
HEAD_ROWS, HEAD_COLUMNS = 512, 4096
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
        self.prefix: FrozenPrefix | None = None  # what is kept of lower layers, while training
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
        with self.prefix.serving(rows, packed) if self.prefix and self.training else nullcontext():
            if not packed:
                return decoder(input_ids=input_ids_BT, use_cache=False)[0].flatten(0, 1)[positions_N]
            hidden_TD = run_packed(decoder, rows, [-1] * len(rows), self.device)
        return hidden_TD[packed_places(positions_N, input_ids_BT.shape[1], lengths)]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Vocabulary logits in fp32, (N, V)."""
        return self._capped(self._head(hidden_ND, self.model.get_output_embeddings()))

    def _capped(self, logits_NV: Tensor) -> Tensor:
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return (cap * torch.tanh(logits_NV.float() / cap)) if cap else logits_NV.float()

    @torch.no_grad()
    def predict(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each target, in nats, and the likeliest token there, (N,) both.

        The vocabulary comes in pieces that stay in the processor's cache, with the sum of the softmax
        carried on from piece to piece (Milakov & Gimelshein, 2018).
        """
        highest_N = torch.full_like(targets_N, -torch.inf, dtype=torch.float32)
        sum_N, at_target_N = torch.zeros_like(highest_N), torch.zeros_like(highest_N)
        likeliest_N = torch.zeros_like(targets_N)
        head = self.model.get_output_embeddings()
        for start, part_NP in self._head.in_pieces(hidden_ND, head, HEAD_COLUMNS):
            logits_NP = self._capped(part_NP)
            top_N = logits_NP.amax(-1)
            higher_N = top_N > highest_N  # few are, after the first pieces; argmax is slow
            likeliest_N[higher_N] = logits_NP[higher_N].argmax(-1) + start
            here_N = (targets_N - start).clamp(0, logits_NP.shape[1] - 1)
            inside_N = here_N == targets_N - start
            found_N = logits_NP.gather(1, here_N[:, None])[:, 0]
            at_target_N = torch.where(inside_N, found_N, at_target_N)
            before_N, highest_N = highest_N, torch.maximum(highest_N, top_N)
            sum_N *= (before_N - highest_N).exp()
            sum_N += logits_NP.sub_(highest_N[:, None]).exp_().sum(-1)
        return at_target_N - highest_N - sum_N.log(), likeliest_N

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

        Many logits are made in pieces, and made again for their gradient: 400 of them, with what
        comes of them on the way, would take 2 GB with Gemma's vocabulary.
        """

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
        argmax: likeliest token at each place of the continuation and at the one after it (n + 1).
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
    return scored.argmax[:n] == query.continuation and scored.argmax[n] in ends


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
    for length, members in shared_prefixes(contexts, *WORTH_CACHE):
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
            places += range(start + len(q.context) - common - 1, start + len(q) - common)
            start += len(q) - common
    with lm.autocast():
        hidden_ND = run_packed(lm.model.get_decoder(), segments, parents, lm.device)[places]
    return _read(lm, hidden_ND, queries, [i for _, members in pack for i in members])


def _score_padded(
    lm: AnswerLM, queries: Sequence[Encoded], chosen: list[int], common: int, past: Cache | None
) -> dict[int, Scored]:
    """Score queries whose first ``common`` tokens are in the cache."""
    rests = [Encoded(queries[i].context[common:], queries[i].continuation) for i in chosen]
    input_ids_BT = pad([q.context + q.continuation for q in rests]).to(lm.device)
    width = input_ids_BT.shape[1]
    spans = [range(len(q.context) - 1, len(q)) for q in rests]
    positions = [row * width + t for row, span in enumerate(spans) for t in span]
    if past is not None:  # running the model appends to the cache, so each batch gets its own
        past = copy.deepcopy(past)
        past.batch_repeat_interleave(len(rests))
    with lm.autocast():
        hidden_ND = lm.hidden(input_ids_BT, torch.tensor(positions, device=lm.device), past)
    return _read(lm, hidden_ND, queries, chosen)


def _read(
    lm: AnswerLM, hidden_ND: Tensor, queries: Sequence[Encoded], chosen: list[int]
) -> dict[int, Scored]:
    """Scores of the chosen queries from their hidden states, n + 1 of each, one behind the other."""
    # The last place of a query has no target; a zero stands in and is dropped below.
    targets = [t for i in chosen for t in (*queries[i].continuation, 0)]
    logprobs: list[float] = []
    argmax: list[int] = []
    targets_N = torch.tensor(targets, device=hidden_ND.device)
    for rows in torch.arange(len(targets)).split(HEAD_ROWS):
        found = lm.predict(hidden_ND[rows], targets_N[rows])
        logprobs += found[0].tolist()
        argmax += found[1].tolist()
    results, start = {}, 0
    for i in chosen:
        n = len(queries[i].continuation)
        results[i] = Scored(logprobs[start : start + n], argmax[start : start + n + 1])
        start += n + 1
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
    """Greedy answers in text, each cut at the first token in ``ends``."""
    results: dict[int, str] = {}
    pad_id = encoder.eos_id
    for batch in by_length([len(c) + max_new_tokens for c in contexts], token_budget):
        width = max(len(contexts[i]) for i in batch)
        rows = [[pad_id] * (width - len(contexts[i])) + contexts[i] for i in batch]
        mask = [[0] * (width - len(contexts[i])) + [1] * len(contexts[i]) for i in batch]
        with lm.autocast():
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
