"""Scorers against brute force: likelihoods, exact match, generation, probes, means and divergence."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    BOS,
    EOS,
    FIRST_WORD,
    LINE_BREAKS,
    PAD,
    VOCABULARY,
    RunFactory,
    logits,
    perturb,
    random_ids,
    random_queries,
    tiny_model,
)
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.dataset import Row
from gdo_cli.data.rows import SAMPLE_DIR
from gdo_cli.evaluation.divergence import Reference
from gdo_cli.evaluation.evaluator import Evaluation
from gdo_cli.experiment.reopen import build_evaluator, read_run_data
from gdo_cli.lm import answer_lm, lm_head, scoring
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import by_length
from gdo_cli.lm.generation import generate
from gdo_cli.lm.scoring import is_exact, score
from gdo_cli.lm.tokens import Encoded, Encoder, Ends, Query
from gdo_cli.methods.grow import GFreeze
from gdo_cli.models.loading import Loaded
from gdo_cli.stats.outcomes import Outcome, mean


def answering(model: PreTrainedModel) -> AnswerLM:
    return AnswerLM(model, torch.float32)


def decisive(family: str) -> PreTrainedModel:
    """A tiny model with large weights, so that its answers vary and no two tokens are nearly equal."""
    model = tiny_model(family)
    perturb(model, 0.3, seed=1)
    # Without this a Gemma's residual stream only repeats the last token for ever.
    if family.startswith("gemma"):
        perturb(model, 8.0, only="post_")
    return model


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """(T, V): the model's own forward on one unpadded sequence, softmax over the whole vocabulary."""
    table: Tensor = logits(model, torch.tensor([ids]))[0].log_softmax(-1)
    return table


# -------------------------------------------------------------------------------------- AnswerLM


def test_logits_at_positions_equal_the_models_own(any_model: PreTrainedModel) -> None:
    ids, places = random_ids(3, 11), torch.tensor([0, 5, 11, 32, 31, 5])
    with torch.no_grad():
        chosen = answering(any_model)(ids, places)
    torch.testing.assert_close(chosen, logits(any_model, ids).flatten(0, 1)[places], rtol=0, atol=1e-6)


def test_logits_respect_soft_capping(gemma3: PreTrainedModel) -> None:
    gemma3.config.final_logit_softcapping = 0.5
    ids = random_ids(2, 7)
    own = logits(gemma3, ids).flatten(0, 1)
    assert 0.3 < own.abs().max() < 0.5
    with torch.no_grad():
        torch.testing.assert_close(answering(gemma3)(ids, torch.arange(14)), own, rtol=0, atol=1e-6)


@pytest.mark.parametrize("filler", [PAD, 50])
def test_what_stands_behind_a_sequence_does_not_matter(any_model: PreTrainedModel, filler: int) -> None:
    ids = random_ids(1, 9)
    padded = torch.cat([ids, torch.full((1, 6), filler)], dim=1)
    lm, places = answering(any_model), torch.arange(9)
    with torch.no_grad():
        torch.testing.assert_close(lm(padded, places), lm(ids, places), rtol=0, atol=1e-6)


def test_the_head_trains_where_it_is_not_frozen(llama: PreTrainedModel) -> None:
    head = llama.get_output_embeddings().requires_grad_(True)
    answering(llama)(random_ids(1, 4), torch.tensor([3])).sum().backward()
    assert head.weight.grad.abs().sum() > 0


# ----------------------------------------------------------------------------------------- score


def by_hand(model: PreTrainedModel, query: Encoded) -> tuple[list[float], list[int]]:
    """Log-probabilities and argmax of one query, by a forward pass of its own."""
    table = log_probabilities(model, query.context + query.continuation)
    first = len(query.context) - 1
    logprobs = [float(table[first + n, token]) for n, token in enumerate(query.continuation)]
    return logprobs, table[first:].argmax(-1).tolist()


@pytest.mark.few(5)
@pytest.mark.parametrize("token_budget", [1, 60, 100_000])
def test_scores_equal_a_loop_over_single_sequences(any_model: PreTrainedModel, token_budget: int) -> None:
    queries = random_queries(40)
    done: list[int] = []
    scored = score(answering(any_model), queries, token_budget, done.append)
    assert sum(done) == len(queries)
    for query, one in zip(queries, scored, strict=True):
        logprobs, argmax = by_hand(any_model, query)
        assert one.logprobs == pytest.approx(logprobs, abs=1e-5)
        assert one.logprob == pytest.approx(sum(logprobs), abs=1e-5)
        assert one.argmax == argmax


def after(prefix: list[int], queries: list[Encoded]) -> list[Encoded]:
    return [Encoded(prefix + q.context[1:], q.continuation) for q in queries if len(q.context) > 1]


@pytest.mark.few(6)
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("token_budget", [1, 400, 100_000])
def test_queries_behind_a_shared_prefix_score_as_if_each_came_alone(
    any_model: PreTrainedModel, token_budget: int, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few-shot examples are read once; a sliding window shorter than them must slide all the same."""
    if not packs:
        monkeypatch.setattr(scoring, "can_pack", lambda model: False)
    one, other = ([BOS, *random_ids(60, seed=seed).tolist()] for seed in (500, 501))
    short = [BOS, *random_ids(9, seed=502).tolist()]  # the options of one question
    alone = random_queries(9)
    queries = [*after(one, random_queries(20, seed=1)), *alone, *after(other, random_queries(20, seed=2))]
    queries += [Encoded(one, [20]), Encoded(one[:-1], [20, 21]), Encoded(one[:5], [20])]
    queries += [Encoded(short, answer) for answer in ([20], [20, 21], [30, 31, 32])]
    done: list[int] = []
    scored = score(answering(any_model), queries, token_budget, done.append)
    assert sum(done) == len(queries)
    for query, found in zip(queries, scored, strict=True):
        logprobs, argmax = by_hand(any_model, query)
        assert found.logprobs == pytest.approx(logprobs, abs=1e-5)
        assert found.argmax == argmax


def test_what_is_common_goes_through_the_decoder_once(gemma3: PreTrainedModel) -> None:
    seen: list[int] = []
    gemma3.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    question = [BOS, *random_ids(39).tolist()]
    score(answering(gemma3), [Encoded(question, [20, n]) for n in range(30, 34)], 1000)
    assert seen == [39 + 4 * 3]  # the last token of the question is each option's own


@pytest.mark.parametrize("columns", [1, 7, 64, 10_000])
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_a_prediction_in_pieces_is_the_softmax_over_the_whole_vocabulary(
    gemma3: PreTrainedModel, columns: int, cap: float | None, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_head, "PIECE", columns)
    gemma3.config.final_logit_softcapping = cap
    hidden = scale * torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    targets = random_ids(40)
    weight = gemma3.get_output_embeddings().weight.detach()
    table = hidden.double() @ weight.double().T
    table = (table if cap is None else cap * torch.tanh(table / cap)).log_softmax(-1)
    logprobs, argmax = answering(gemma3).predict(hidden, targets)
    wanted = table.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), wanted, rtol=1e-5, atol=1e-5)
    best = table.gather(1, argmax[:, None])[:, 0]
    torch.testing.assert_close(best, table.max(-1).values, rtol=1e-6, atol=1e-6)  # a cap makes ties


@pytest.mark.parametrize("packed", [True, False])
def test_a_query_that_does_not_ask_what_comes_after_costs_a_place_less(
    gemma3: PreTrainedModel, packed: bool, word_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "can_pack", lambda model: packed)
    lm = AnswerLM(gemma3, torch.float32).eval()
    queries = random_queries(7)
    short = [replace(q, ends=i % 2 == 0) for i, q in enumerate(queries)]
    every = Ends(word_encoder.tokenizer, frozenset(range(1000)))
    for query, one, other in zip(short, score(lm, queries, 100), score(lm, short, 100), strict=True):
        n = len(query.continuation)
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-5)
        assert other.argmax == one.argmax[: n + query.ends]
        # Every token ends an answer here, so that the continuation alone decides.
        assert is_exact(query, other, every) == (query.ends and one.argmax[:n] == query.continuation)


@pytest.mark.parametrize("columns", [7, 10_000])
def test_scores_are_the_same_when_the_head_runs_in_pieces(
    gemma3: PreTrainedModel, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = random_queries(30)
    whole = score(answering(gemma3), queries, 1000)
    monkeypatch.setattr(scoring, "HEAD_ROWS", 7)
    monkeypatch.setattr(lm_head, "PIECE", columns)
    pieces = score(answering(gemma3), queries, 1000)
    for one, other in zip(whole, pieces, strict=True):
        assert one.argmax == other.argmax
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_scoring_leaves_no_graph_behind(gemma3: PreTrainedModel) -> None:
    gemma3.requires_grad_(True)
    score(answering(gemma3), random_queries(3), 100)
    assert all(p.grad is None for p in gemma3.parameters())


@pytest.mark.parametrize("budget", [1, 50, 10_000])
def test_batches_of_similar_length_hold_every_index_once_within_the_budget(budget: int) -> None:
    lengths = [len(q) for q in random_queries(60)]
    found = list(by_length(lengths, budget))
    assert sorted(i for batch in found for i in batch) == list(range(60))
    for batch in found:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
    assert lengths[found[0][0]] == max(lengths)
    assert list(by_length([], budget)) == []


# --------------------------------------------------------------------- exact match and generation

ENDS = frozenset({EOS, *LINE_BREAKS, *range(80, 116)})  # many, so that random models stop by themselves
ROOM = 6  # new tokens


@torch.no_grad()
def greedy(model: PreTrainedModel, contexts: Tensor, ends: frozenset[int], n: int) -> list[list[int]]:
    """transformers' own greedy decoding of contexts of one length; no padding is involved."""
    out = model.generate(
        input_ids=contexts,
        attention_mask=torch.ones_like(contexts),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=sorted(ends),
        pad_token_id=PAD,
    )
    return [row[contexts.shape[1] :] for row in out.tolist()]


def answered(generated: list[int], ends: frozenset[int]) -> tuple[list[int], int | None]:
    """The answer in generated tokens and the token that ended it, if one did."""
    stop = next((n for n, token in enumerate(generated) if token in ends), None)
    return (generated, None) if stop is None else (generated[:stop], generated[stop])


def candidate(own: list[int], index: int) -> list[int]:
    """For half of the prompts the model's own answer, else one that is wrong in one of four ways."""
    wrong = [FIRST_WORD + index % 60]
    return [own, own[:-1], own, own + wrong, own, wrong + own[1:], own, wrong * 3][index % 8]


@pytest.mark.few(1)
@pytest.mark.parametrize("family", ["gemma3", "llama", "phi", "opt"])
def test_exact_match_in_one_pass_equals_greedy_generation(family: str, word_encoder: Encoder) -> None:
    model, lm = decisive(family), answering(decisive(family))
    rights: list[bool] = []
    stops: set[int | None] = set()
    ends = Ends(word_encoder.tokenizer, ENDS)
    for length in (3, 8, 14):
        contexts = random_ids(80, length, seed=length)
        for index, generated in enumerate(greedy(model, contexts, ENDS, ROOM)):
            own, stop = answered(generated, ENDS)
            # Two tokens short of the room, so that what comes after any candidate is known.
            query = Encoded(contexts[index].tolist(), candidate(own[: ROOM - 2], index))
            (scored,) = score(lm, [query], 1000)
            expected = own == query.continuation and stop is not None
            assert is_exact(query, scored, ends) == expected
            rights.append(expected)
            stops.add(stop if expected else None)
    assert len(rights) == 240
    assert 0.2 < sum(rights) / len(rights) < 0.8
    assert len(stops) > 2


def fixed_answer(family: str, tokens: list[int]) -> PreTrainedModel:
    """A model that says the given tokens in turn, whatever it is asked: each one follows the last."""
    model = tiny_model(family)
    head = nn.Linear(VOCABULARY, VOCABULARY, bias=False)
    with torch.no_grad():
        head.weight.zero_()
        for before, after in zip([BOS, *tokens], tokens, strict=False):
            head.weight[after, before] = 10.0
    model.get_decoder = _OneHot
    model.set_output_embeddings(head)
    return model


class _OneHot(nn.Module):
    def forward(self, input_ids: Tensor, **_: object) -> tuple[Tensor]:
        return (nn.functional.one_hot(input_ids, VOCABULARY).float(),)


@pytest.mark.parametrize("end", [EOS, *LINE_BREAKS])
def test_an_answer_may_end_with_eos_or_any_line_break(word_encoder: Encoder, end: int) -> None:
    lm = answering(fixed_answer("llama", [20, 21, end]))
    whole, part, more = (Encoded([BOS], answer) for answer in ([20, 21], [20], [20, 21, 22]))
    exact = [is_exact(q, s, word_encoder.answer_ends) for q, s in
             zip((whole, part, more), score(lm, [whole, part, more], 100), strict=True)]  # fmt: skip
    assert exact == [True, False, False]


def test_an_answer_that_goes_on_is_not_exact(word_encoder: Encoder) -> None:
    query = Encoded([BOS], [20, 21])
    (scored,) = score(answering(fixed_answer("llama", [20, 21, 22])), [query], 100)
    assert not is_exact(query, scored, word_encoder.answer_ends)


def test_what_ends_an_answer_is_every_eos_and_every_token_that_begins_a_line(word_encoder: Encoder) -> None:
    assert word_encoder.answer_ends.tokens == {EOS, *LINE_BREAKS}
    assert Encoder.of(word_encoder.tokenizer, [99]).answer_ends.tokens == {EOS, 99, *LINE_BREAKS}


def greedy_text(model: PreTrainedModel, encoder: Encoder, context: list[int], n: int) -> str:
    """Greedy decoding written out: one unpadded sequence, no cache, one token at a time."""
    ids: list[int] = []
    while len(ids) < n:
        token = int(log_probabilities(model, context + ids)[-1].argmax())
        if token in encoder.answer_ends.tokens:
            break
        ids.append(token)
    return str(encoder.tokenizer.decode(ids, skip_special_tokens=True))


@pytest.mark.few(3)
@pytest.mark.parametrize("token_budget", [1, 150])
@pytest.mark.parametrize("family", ["gemma3", "llama", "opt", "gemma3_multimodal"])
def test_generation_equals_greedy_decoding_one_by_one(
    family: str, token_budget: int, word_encoder: Encoder
) -> None:
    model = decisive(family)
    encoder = Encoder(word_encoder.tokenizer, ENDS)
    contexts = [q.context for q in random_queries(30)]
    done: list[int] = []
    texts = generate(
        answering(model), encoder, contexts, encoder.answer_ends, ROOM, token_budget, done.append
    )
    assert texts == [greedy_text(model, encoder, context, ROOM) for context in contexts]
    assert sum(done) == len(contexts)
    assert len(set(texts)) > 10


def test_generation_is_greedy_whatever_the_models_own_settings_are(word_encoder: Encoder) -> None:
    encoder = Encoder(word_encoder.tokenizer, ENDS)
    contexts = [q.context for q in random_queries(30)]
    for model in (decisive("llama"), GFreeze().prepare(decisive("llama"), None)):
        expected = [greedy_text(model, encoder, context, ROOM) for context in contexts]
        model.generation_config.repetition_penalty = 1.9
        before = copy.deepcopy(model.generation_config)
        assert generate(answering(model), encoder, contexts, encoder.answer_ends, ROOM, 150) == expected
        assert model.generation_config == before


# ---------------------------------------------------------------------------------------- probes


@pytest.fixture(scope="module")
def sharp(tiny_loaded: Loaded) -> Loaded:
    """The bundled tiny model, moved far from its initial state."""
    model = copy.deepcopy(tiny_loaded.model).float()
    perturb(model, 0.1)
    return Loaded(model, tiny_loaded.tokenizer, {})


def measured(config: RunConfig, loaded: Loaded, name: str) -> tuple[Evaluation, list[Row]]:
    """A probe's evaluation, and the rows it asked."""
    material = read_run_data(config)
    suite = build_evaluator(config, material, Encoder.of(loaded.tokenizer, []))
    return suite.evaluate_probe(answering(loaded.model), name), material.probes[name][0]


def sample_rows(dataset: str, split: str) -> list[Row]:
    text = (SAMPLE_DIR / dataset / f"{split}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def harness_loglikelihood(loaded: Loaded, context: str, continuation: str) -> tuple[float, int, bool]:
    """As lm-evaluation-harness does it: Σ log-probability, tokens, and whether greedy agrees.

    Spaces at the end of the context belong to the continuation, and the pair is encoded as a whole.
    """
    tokenizer: PreTrainedTokenizerBase = loaded.tokenizer
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    whole = tokenizer.encode(kept + continuation, add_special_tokens=False)
    before = len(tokenizer.encode(kept, add_special_tokens=False))
    table = log_probabilities(loaded.model, [int(tokenizer.bos_token_id), *whole])
    tokens = whole[before:]
    at = [table[before + n, token] for n, token in enumerate(tokens)]
    agree = [int(table[before + n].argmax()) == token for n, token in enumerate(tokens)]
    return float(sum(at)), len(tokens), all(agree)


def test_winogrande_equals_partial_evaluation_in_a_loop(tiny_run: RunFactory, sharp: Loaded) -> None:
    found, rows = measured(tiny_run("probe.winogrande.items=40"), sharp, "winogrande")
    right = []
    for row in rows:
        blank = row["sentence"].index("_")
        ending = " " + row["sentence"][blank + 1 :].strip()
        begun = [row["sentence"][:blank] + row[f"option{n}"] for n in (1, 2)]
        likelihoods = [harness_loglikelihood(sharp, context, ending)[0] for context in begun]
        right.append(int(np.argmax(likelihoods)) == int(row["answer"]) - 1)
    assert len(rows) == 40
    assert 0 < sum(right) < 40
    assert found.metrics["winogrande/likelihood"] == pytest.approx(np.mean(right))
    assert [p["likelihood"] for p in found.predictions] == right


def test_winogrande_shows_the_same_solved_examples_before_each_question(tiny_run: RunFactory) -> None:
    config = tiny_run("probe.winogrande.shots=2")
    material = read_run_data(config)
    rows, shots = material.probes["winogrande"]
    assert len(shots) == 2
    assert all(shot in sample_rows("winogrande", "train_s") for shot in shots)
    prompts = [config.probe["winogrande"].queries(row, shots)[0] for row in rows]
    for row, query in zip(rows, prompts, strict=True):
        *solved, question = query.context.split("\n\n")
        assert [s.rpartition("Answer: ")[2] for s in solved] == [s[f"option{s['answer']}"] for s in shots]
        assert row["sentence"] in question
        assert query.continuation == f" {row['option' + row['answer']]}"


def test_arc_easy_equals_the_likeliest_option_in_a_loop(tiny_run: RunFactory, sharp: Loaded) -> None:
    found, rows = measured(
        tiny_run("probe=[winogrande,arc_easy]", "probe.arc_easy.items=30"), sharp, "arc_easy"
    )
    right, right_per_byte = [], []
    for row in rows:
        choices = row["choices"]["text"]
        context = f"Question: {row['question']}\nAnswer:"
        sums = np.array([harness_loglikelihood(sharp, context, " " + choice)[0] for choice in choices])
        answer = row["choices"]["label"].index(row["answerKey"])
        right.append(int(sums.argmax()) == answer)
        right_per_byte.append(int((sums / [len(c.encode()) for c in choices]).argmax()) == answer)
    assert found.metrics["arc_easy/likelihood"] == pytest.approx(np.mean(right))
    assert found.metrics["arc_easy/likelihood_norm"] == pytest.approx(np.mean(right_per_byte))
    assert 0 < sum(right) < 30


def test_lambada_equals_a_loop(tiny_run: RunFactory, sharp: Loaded) -> None:
    found, rows = measured(tiny_run("probe=[winogrande,lambada]", "probe.lambada.items=30"), sharp, "lambada")
    pairs = []
    for row in rows:
        text = row["text"] if "text" in row else f"{row['context']} {row['target']}"
        context, _, word = text.strip().rpartition(" ")
        pairs.append(harness_loglikelihood(sharp, context, " " + word))
    assert found.metrics["lambada/loss"] == pytest.approx(
        -np.mean([total for total, _, _ in pairs]), rel=1e-5
    )
    assert found.metrics["lambada/last_word"] == np.mean([agree for _, _, agree in pairs])


def test_lambada_counts_a_word_only_if_all_its_tokens_are_greedy(tiny_run: RunFactory) -> None:
    probe = tiny_run("probe=[winogrande,lambada]").probe["lambada"]
    asked = [Query("they were", " signs", ends=False)]
    assert probe.queries({"text": "they were signs"}, []) == asked
    assert probe.queries({"context": "they were", "target": "signs"}, []) == asked
    lm = answering(fixed_answer("llama", [20, 21, 22]))
    greedy_agrees = []
    for answer in ([20, 21], [20, 23], [23, 21]):
        (scored,) = score(lm, [Encoded([BOS], answer)], 100)
        greedy_agrees.append(scored.argmax[:2] == answer)
    assert greedy_agrees == [True, False, False]


def test_perplexity_equals_the_loss_over_all_tokens_together(tiny_run: RunFactory, sharp: Loaded) -> None:
    config = tiny_run(
        "probe=[winogrande,perplexity]", "probe.perplexity.items=10", "probe.perplexity.min_characters=60"
    )
    found, rows = measured(config, sharp, "perplexity")
    total, tokens = 0.0, 0
    for row in rows:
        text = row["text"].strip()[:1200]
        assert len(text) >= 60
        ids = [int(sharp.tokenizer.bos_token_id), *sharp.tokenizer.encode(text, add_special_tokens=False)]
        table = log_probabilities(sharp.model, ids)
        losses = nn.functional.nll_loss(table[:-1], torch.tensor(ids[1:]), reduction="none")
        total, tokens = total + float(losses.sum()), tokens + len(losses)
    assert len(rows) == 10
    assert found.metrics["perplexity/loss"] == pytest.approx(total / tokens, rel=1e-5)


PERPLEXITY = (
    "probe=[winogrande,perplexity]",
    "probe.perplexity.items=10",
    "probe.perplexity.min_characters=60",
)


@pytest.mark.parametrize("token_budget", [1, 400, 100_000])
def test_padding_of_a_batch_has_no_part_in_perplexity(
    token_budget: int, tiny_run: RunFactory, sharp: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = measured(tiny_run(*PERPLEXITY), sharp, "perplexity")  # in one row, without padding
    monkeypatch.setattr(scoring, "can_pack", lambda model: False)
    words = (*PERPLEXITY, f"evaluation.token_budget={token_budget}")
    padded, rows = measured(tiny_run(*words), sharp, "perplexity")
    assert len({len(row["text"]) for row in rows}) > 5
    assert padded.metrics["perplexity/loss"] == pytest.approx(alone.metrics["perplexity/loss"], rel=1e-5)


def test_perplexity_is_of_the_next_token(tiny_run: RunFactory, sharp: Loaded) -> None:
    """As transformers shifts labels itself; of the same token, it would be far lower."""
    found, rows = measured(tiny_run(*PERPLEXITY), sharp, "perplexity")
    total, tokens = 0.0, 0
    for row in rows:
        text = row["text"].strip()[:1200]
        ids = [sharp.tokenizer.bos_token_id, *sharp.tokenizer.encode(text, add_special_tokens=False)]
        row_ids = torch.tensor([ids])
        with torch.no_grad():
            total += float(sharp.model(input_ids=row_ids, labels=row_ids).loss) * (len(ids) - 1)
        tokens += len(ids) - 1
    assert found.metrics["perplexity/loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_a_probe_asks_the_same_rows_whatever_the_seed(tiny_run: RunFactory) -> None:
    one, other = (read_run_data(tiny_run(f"seed={seed}")).probes["winogrande"] for seed in (0, 1))
    assert one == other


# ----------------------------------------------------------------------------------------- means


def test_the_mean_of_hits_has_the_binomial_standard_error() -> None:
    hits = [1.0] * 7 + [0.0] * 13
    found = mean([Outcome(hit) for hit in hits])
    assert found.value == pytest.approx(0.35)
    assert found.n == 20
    assert found.se == pytest.approx(math.sqrt(0.35 * 0.65 / 19))
    assert found.se == pytest.approx(np.std(hits, ddof=1) / math.sqrt(20))


def test_a_weighted_mean_has_the_standard_error_of_a_ratio() -> None:
    generator = np.random.default_rng(0)
    values, weights = generator.normal(size=50), generator.integers(1, 30, size=50)
    found = mean([Outcome(float(v), float(w)) for v, w in zip(values, weights, strict=True)])
    centre = np.average(values, weights=weights)
    residuals = weights * (values - centre)
    assert found.value == pytest.approx(centre)
    assert found.se == pytest.approx(np.sqrt(residuals.var() * 50 / 49 / 50) / weights.mean())


def test_the_standard_error_of_a_ratio_is_the_spread_of_repeated_draws() -> None:
    generator = np.random.default_rng(1)

    def draw() -> Any:
        weights = generator.integers(1, 10, size=200).astype(float)
        values = generator.normal(size=200) + 0.2 * weights
        return mean([Outcome(float(v), float(w)) for v, w in zip(values, weights, strict=True)])

    drawn = [draw() for _ in range(400)]
    spread = float(np.std([d.value for d in drawn], ddof=1))
    assert float(np.mean([d.se for d in drawn])) == pytest.approx(spread, rel=0.1)  # ±3.5 % at 400 draws


def test_means_of_nothing_and_of_one_item_claim_no_precision() -> None:
    nothing, one = mean([]), mean([Outcome(0.5)])
    assert (math.isnan(nothing.value), math.isnan(nothing.se), nothing.n) == (True, True, 0)
    assert (one.value, math.isnan(one.se), one.n) == (0.5, True, 1)


# ------------------------------------------------------------------------------------ divergence

PROMPTS = [random_ids(17, seed=seed).tolist() for seed in range(5)]
PLACES = [2, 4, 6, 8, 10, 12, 14, 16]  # eight places spread over seventeen tokens, the last included


def test_a_model_does_not_diverge_from_itself(any_model: PreTrainedModel) -> None:
    lm = answering(any_model)
    assert set(Reference(lm, PROMPTS).divergence(lm).values()) == {0.0}


def test_the_divergence_equals_torchs_kl_div(any_model: PreTrainedModel) -> None:
    base, moved = copy.deepcopy(any_model), any_model
    perturb(moved, 0.05, seed=1)
    found = Reference(answering(base), PROMPTS).divergence(answering(moved))
    rows = []
    for prompt in PROMPTS:
        now, before = log_probabilities(moved, prompt), log_probabilities(base, prompt)
        rows.append(nn.functional.kl_div(now, before, reduction="none", log_target=True).sum(-1)[PLACES])
    kl = torch.stack(rows).double().numpy()
    at_answer, in_prompt = kl[:, -1], kl[:, :-1].mean(-1)
    assert found["kl/answer"] == pytest.approx(at_answer.mean(), rel=1e-4)
    assert found["kl/prompt"] == pytest.approx(in_prompt.mean(), rel=1e-4)
    assert found["kl/answer_se"] == pytest.approx(at_answer.std(ddof=1) / math.sqrt(5), rel=1e-4)
    assert found["kl/prompt_se"] == pytest.approx(in_prompt.std(ddof=1) / math.sqrt(5), rel=1e-4)
    assert found["kl/answer"] > 1e-3


def test_the_divergence_of_a_prompt_of_one_token_is_defined(gemma3: PreTrainedModel) -> None:
    lm = answering(gemma3)
    assert Reference(lm, [[BOS], [BOS]]).divergence(lm)["kl/prompt"] == 0.0


@pytest.mark.parametrize("trains_head", [False, True], ids=["frozen_head", "trained_head"])
def test_a_loss_made_in_pieces_is_the_loss(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, trains_head: bool
) -> None:
    lm = answering(llama)
    head = llama.get_output_embeddings().weight.requires_grad_(trains_head)
    hidden = torch.randn(9, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    targets = random_ids(9)
    wanted = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="sum")
    leaves = [hidden, head] if trains_head else [hidden]
    gradients = torch.autograd.grad(wanted, leaves)
    monkeypatch.setattr(answer_lm, "LOSS_ROWS", 4)
    loss = lm.loss(hidden, targets)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    loss.backward()
    for leaf, expected in zip(leaves, gradients, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=1e-6)
