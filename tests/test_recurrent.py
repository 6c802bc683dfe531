"""Claims about models in which more than attention looks across tokens: nothing reaches another sequence."""

from collections.abc import Callable

import pytest
import torch
from conftest import VOCABULARY, perturb, random_ids, random_queries
from transformers import Lfm2Config, Lfm2ForCausalLM, PreTrainedModel, Qwen3NextConfig, Qwen3NextForCausalLM

from gdo_cli.lm import answer_lm, packing, scoring
from gdo_cli.lm.agreement import check_forward
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.compat import only_attends
from gdo_cli.lm.decoder import text_decoder
from gdo_cli.lm.packing import can_pack
from gdo_cli.lm.scoring import score
from gdo_cli.lm.tokens import Encoded
from gdo_cli.support.errors import RunFailed

QUERIES = random_queries(6)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PREFIX = 60  # tokens; from 48 on a prefix is worth a cache where it can be shared


def convolving() -> PreTrainedModel:
    layers = ["conv", "full_attention", "conv", "full_attention"]
    return Lfm2ForCausalLM(Lfm2Config(**SHAPE, layer_types=layers))


def recurrent() -> PreTrainedModel:
    heads = {"head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    heads |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "mlp_only_layers": [0, 1, 2, 3]}
    return Qwen3NextForCausalLM(Qwen3NextConfig(**SHAPE, **heads, **experts))


def built(family: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = family().eval()
    perturb(model, 0.2)
    return model.requires_grad_(False)


@pytest.fixture(params=[convolving, recurrent])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return built(request.param)


def own(model: PreTrainedModel, query: Encoded) -> float:
    """Log-likelihood of the continuation by the model's own forward pass, in nats."""
    ids = torch.tensor([query.context + query.continuation])
    logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    first = len(query.context) - 1
    return sum(float(logprobs[first + i, token]) for i, token in enumerate(query.continuation))


def test_queries_score_the_same_whatever_is_scored_with_them(model: PreTrainedModel) -> None:
    assert not can_pack(model)
    found = score(AnswerLM(model, torch.float32).eval(), QUERIES, 256)
    assert [one.logprob for one in found] == pytest.approx([own(model, q) for q in QUERIES], abs=2e-5)


def test_a_long_common_prefix_is_computed_for_each(model: PreTrainedModel) -> None:
    start = random_ids(PREFIX, seed=99).tolist()
    queries = [Encoded(start + q.context, q.continuation) for q in QUERIES]
    found = score(AnswerLM(model, torch.float32).eval(), queries, 512)
    assert [one.logprob for one in found] == pytest.approx([own(model, q) for q in queries], abs=2e-5)


def test_the_families_that_only_attend_are_known(any_model: PreTrainedModel) -> None:
    assert only_attends(text_decoder(any_model))


def test_a_run_does_not_start_where_sequences_reach_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = AnswerLM(built(convolving), torch.float32)
    check_forward(lm, QUERIES)
    monkeypatch.setattr(packing, "only_attends", lambda decoder: True)
    monkeypatch.setattr(scoring, "only_attends", lambda decoder: True)
    with pytest.raises(RunFailed, match=r"Lfm2ForCausalLM: a prompt's logits change by \d+%"):
        check_forward(lm, QUERIES)


def test_a_run_does_not_start_where_attention_cannot_be_exchanged(
    gemma3: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlike(*_: object, **__: object) -> None:
        raise TypeError("missing 1 required keyword-only argument: 'packed'")

    monkeypatch.setattr(answer_lm, "run_packed", unlike)
    with pytest.raises(RunFailed, match="does not take packed sequences"):
        check_forward(AnswerLM(gemma3, torch.float32), QUERIES)
