"""What holds full fine-tuning back: penalties and rehearsed texts, against their textbook formulas."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BOS, EOS, RunFactory, bits, changed, perturb, random_queries, tiny_model, trainable, twin
from torch import Tensor
from transformers import PreTrainedModel

from gdo_cli.data.rows import SAMPLE_DIR
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.tokens import Encoded, Query
from gdo_cli.methods.regularized import L2SP, KLToBase, Replay
from gdo_cli.support.errors import UserError
from gdo_cli.training.batches import collate
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.loop import Step, train
from gdo_cli.training.penalties import Divergence, Penalty

CONFIG = TrainConfig(lr=1e-2, steps=3, batch_size=6, adam_epsilon=1e-2, precision="fp32")
EXAMPLES = [*random_queries(5), Encoded([BOS], [20, 21])]  # the last prompt is a single token
TEXTS = [Encoded([BOS], q.context[1:] + q.continuation) for q in random_queries(7, seed=5)]
SEED = 3


def ready(family: str = "gemma3") -> AnswerLM:
    return AnswerLM(L2SP().prepare(tiny_model(family), None), torch.float32)


def run(lm: AnswerLM, penalty: Penalty | None, **settings: Any) -> list[Step]:
    return list(train(lm, EXAMPLES, replace(CONFIG, **settings), SEED, EOS, penalty))


# --------------------------------------------------------------------------------- by the textbook


def answer_losses(model: PreTrainedModel, e: Encoded) -> Tensor:
    """-log p of the answer's tokens and of the end, from the full logits of one unpadded sequence."""
    return token_losses(model, [*e.context, *e.continuation, EOS])[len(e.context) - 1 :]


def token_losses(model: PreTrainedModel, row: list[int]) -> Tensor:
    """-log p of every token after the first."""
    logprobs = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
    return -torch.stack([logprobs[t - 1, row[t]] for t in range(1, len(row))])


def places(e: Encoded, at: str) -> list[int]:
    n = len(e.context)
    if at == "answer":
        return [*range(n - 1, len(e))]
    return sorted({(n - 1) * i // 8 for i in range(8) if n > 1})


def divergence(base: PreTrainedModel, model: PreTrainedModel, at: str) -> Tensor:
    """Σ p·(log p - log q), the mean over places, from both models' own forward."""
    found = []
    for e in EXAMPLES:
        ids = torch.tensor([[*e.context, *e.continuation, EOS]])
        with torch.no_grad():
            log_p = base(input_ids=ids).logits[0].log_softmax(-1)
        log_q = model(input_ids=ids).logits[0].log_softmax(-1)
        found += [(log_p[t].exp() * (log_p[t] - log_q[t])).sum() for t in places(e, at)]
    return torch.stack(found).mean()


def drawn(number: int, items: int) -> list[Encoded]:
    """The texts of a batch: the seed's own permutation of them in every epoch."""
    n = len(TEXTS)
    order = [i for epoch in range(9) for i in random.Random(f"{SEED}/{epoch}").sample(range(n), n)]
    return [TEXTS[i] for i in order[number * items : (number + 1) * items]]


def distance(base: PreTrainedModel, model: PreTrainedModel) -> Tensor:
    moved = [parameter - base.get_parameter(name) for name, parameter in trainable(model).items()]
    return torch.stack([change.square().sum() for change in moved]).sum()


def replayed(model: PreTrainedModel, step: int, draws: int) -> Tensor:
    """Two texts cut after five tokens beside each batch, a mean over the tokens of each two."""
    means = []
    for number in range(step * draws, (step + 1) * draws):
        rows = [[BOS, *e.continuation[:5]] for e in drawn(number, 2)]
        means.append(torch.cat([token_losses(model, row) for row in rows]).mean())
    return torch.stack(means).mean()


Formula = Callable[[PreTrainedModel, PreTrainedModel, int, int], Tensor]
REPLAY = Replay(items=2, max_tokens=5, weight=0.7)
# A method, its number of batches a step, and its penalty of the base, the model, the step and that number.
CASES: dict[str, tuple[L2SP | KLToBase | Replay, int, Formula]] = {
    "l2_sp": (L2SP(alpha=20.0), 1, lambda base, model, *_: 10 * distance(base, model)),
    "l2_sp in 3 batches": (L2SP(alpha=20.0), 3, lambda base, model, *_: 10 * distance(base, model)),
    "prompt": (KLToBase(5.0, "prompt"), 1, lambda base, model, *_: 5 * divergence(base, model, "prompt")),
    "answer": (KLToBase(5.0, "answer"), 1, lambda base, model, *_: 5 * divergence(base, model, "answer")),
    "replay": (REPLAY, 1, lambda _, model, *number: 0.7 * replayed(model, *number)),
    "replay in 2 batches": (REPLAY, 2, lambda _, model, *number: 0.7 * replayed(model, *number)),
}


@pytest.mark.few(3)
@pytest.mark.parametrize(("method", "parts", "formula"), CASES.values(), ids=CASES)
def test_training_equals_the_textbook_loss_and_penalty_written_out(
    method: L2SP | KLToBase | Replay, parts: int, formula: Formula
) -> None:
    """Three AdamW steps of the full logits in float64; a step is all of the data, in one batch or several.

    The gradients agree to fp32's 1e-6, which Adam divides by no less than its epsilon of 1e-2.
    """
    lm, base = ready(), twin(tiny_model("gemma3"))
    reference = method.prepare(twin(base), None)
    penalty = method.penalty(lm, TEXTS, SEED)
    steps = run(lm, penalty, batch_size=len(EXAMPLES) // parts, gradient_accumulation_steps=parts)
    optimizer = torch.optim.AdamW(trainable(reference).values(), lr=1e-2, eps=1e-2, weight_decay=0.0)
    for number, step in enumerate(steps):
        optimizer.zero_grad()
        loss = torch.cat([answer_losses(reference, e) for e in EXAMPLES]).mean()
        added = formula(base, reference, number, parts)
        (loss + added).backward()
        optimizer.step()
        assert step.loss == pytest.approx(loss.item(), rel=1e-4)
        assert step.penalty == pytest.approx(added.item(), rel=1e-3, abs=1e-9)
    assert step.penalty > 0.1  # enough to tell
    for name, parameter in trainable(reference).items():
        torch.testing.assert_close(trainable(lm.model)[name].double(), parameter, rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("at", ["prompt", "answer"])
def test_the_divergence_is_zero_at_the_start_and_the_base_never_moves(at: str) -> None:
    lm = ready("llama")
    penalty = KLToBase(1.0, at).penalty(lm, [], 0)
    assert isinstance(penalty, Divergence)
    start = bits(lm.model)
    steps = run(lm, penalty)
    assert abs(steps[0].penalty) < 1e-9
    assert all(step.penalty > 1e-5 for step in steps[1:])
    assert not changed(start, penalty.base.model)
    assert len(changed(start, lm.model)) == len(trainable(lm.model))
    assert not any(p.requires_grad or p.grad is not None for p in penalty.base.parameters())


def test_a_penalty_in_bf16_starts_at_zero_too() -> None:
    model = ready().model.bfloat16().float()  # weights that bf16 holds, as a checkpoint's are
    lm = AnswerLM(model, torch.bfloat16)
    assert run(lm, KLToBase(1.0).penalty(lm, [], 0), steps=1)[0].penalty == 0.0


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 10, 40])
def test_places_in_a_prompt_are_distinct_even_and_predict_prompt_tokens_alone(n: int) -> None:
    batch = collate([Encoded([BOS] * n, [30, 31]), Encoded([BOS] * 5, [30])], EOS, "answer")
    width = batch.input_ids_BT.shape[1]
    where = Divergence(ready(), 1.0, "prompt").positions(batch)
    assert where[where >= width].tolist() == [width + t for t in range(4)]
    own = where[where < width].numpy()
    assert len(own) == min(8, n - 1)
    assert all(0 <= t <= n - 2 for t in own)
    gaps = np.diff(own)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_places_in_an_answer_are_those_whose_next_token_is_learnt() -> None:
    for loss_on in ("answer", "sequence"):
        batch = collate(EXAMPLES, EOS, loss_on)
        assert Divergence(ready(), 1.0, "answer").positions(batch).equal(batch.positions_N)


def test_prompts_of_a_single_token_add_nothing() -> None:
    lm = ready()
    penalty = KLToBase(1.0).penalty(lm, [], 0)
    perturb(lm.model, 0.05)
    (step,) = train(lm, [Encoded([BOS], [20])] * 2, replace(CONFIG, steps=1), 0, EOS, penalty)
    assert step.penalty == 0.0


# ------------------------------------------------------------------------------------------- replay


def sample_texts(split: str) -> list[str]:
    lines = (SAMPLE_DIR / "wikitext2" / f"{split}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["text"].strip() for line in lines]


@pytest.mark.parametrize("shortest", [200, 320])
def test_what_is_replayed_is_the_validation_text_and_not_what_the_probe_measures(
    tiny_run: RunFactory, shortest: int
) -> None:
    probe = ("probe=[perplexity,winogrande]", "probe.perplexity.items=null")
    material = read_run_data(tiny_run("method=replay", f"method.min_characters={shortest}", *probe))
    expected = [text for text in sample_texts("validation") if len(text) >= shortest]
    assert 0 < len(expected) < 40
    assert material.replay == [Query("", text) for text in expected]
    measured = {str(row["text"]).strip() for row in material.probes["perplexity"][0]}
    assert measured == {text for text in sample_texts("test") if len(text) >= 200}
    assert not measured.intersection(sample_texts("validation"))
    record = material.provenance["replay"]
    content = (SAMPLE_DIR / "wikitext2" / "validation.jsonl").read_bytes()
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert (record["split"], record["rows"], record["texts"]) == ("validation", 40, len(expected))


def test_methods_that_do_not_replay_read_no_text(tiny_run: RunFactory) -> None:
    material = read_run_data(tiny_run("method=l2_sp"))
    assert material.replay == []
    assert "replay" not in material.provenance


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.min_characters=9999"], "wikitext2: no 'text' of 9999 characters or more to replay"),
        (["method.dataset.splits.replay=train"], "train.jsonl: no such file; .*from: test, validation"),
        (["~method.dataset.splits.replay"], "no 'replay'"),
        (["method.dataset.name=wikitext"], "no data set 'wikitext' in .*did you mean 'wikitext2'"),
        (["method.dataset.name=scitail"], "rows cannot be used.* field 'text' is missing"),
        (["method.items=0"], "method.items=0: must be positive"),
        (["method.weight=-1"], "method.weight=-1.0: must be positive"),
        (["method=l2_sp", "method.alpha=0"], "method.alpha=0.0: must be positive; .* it is sft"),
        (["method=kl_to_base", "method.beta=0"], "method.beta=0.0: must be positive; .* it is sft"),
        (["method=kl_to_base", "method.at=prompts"], "method.at=prompts: unknown; did you mean 'prompt'"),
    ],
)
def test_what_cannot_be_rehearsed_or_penalised_is_refused(
    tiny_run: RunFactory, words: list[str], message: str
) -> None:
    replay = [] if words[0].startswith("method=") else ["method=replay"]
    with pytest.raises(UserError, match=message):
        read_run_data(tiny_run(*replay, *words))


def test_rows_without_text_are_counted_and_left_out(tiny_run: RunFactory, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [json.dumps({"text": "long enough"})] * 3 + ['{"text": 5}', "{", '{"text": " "}']
    file.write_text("\n".join(rows))
    words = [f"+method.dataset.path={file}", "method.dataset.splits.replay=all", "method.min_characters=5"]
    material = read_run_data(tiny_run("method=replay", *words, "data.max_bad_rows=0.5"))
    assert material.replay == [Query("", "long enough")] * 3
    assert material.provenance["replay"]["skipped_rows"] == 2


# ----------------------------------------------------------------------------------- in a whole run


@pytest.mark.parametrize("method", ["l2_sp", "replay"])
def test_the_penalty_is_logged_beside_the_loss(tiny_run: RunFactory, method: str) -> None:
    small = ("train.steps=3", "evaluation.every=3", "evaluation.items=2", "evaluation.final_items=2")
    result = experiment.run(tiny_run(f"method={method}", *small, "save_weights=false"))
    first, *later = [line.get("penalty", 0.0) for line in result.metrics if line["kind"] == "train"]
    assert (first == 0.0) == (method == "l2_sp")
    assert all(value > 0 for value in later)
    assert ("replay" in result.record.data) == (method == "replay")


# ------------------------------------------------------------------------------------ what the base writes


def test_samples_are_drawn_from_the_models_own_distribution() -> None:
    """The first token's frequencies, against the softmax of the model's own forward."""
    from gdo_cli.lm.generation import sample_texts

    model = tiny_model("llama", noise=0.3)
    lm = AnswerLM(model, torch.float32)
    texts = sample_texts(lm, 4000, 1, 1.0, seed=0)
    start = model.config.bos_token_id
    expected = model(torch.tensor([[start]])).logits[0, -1].softmax(-1)
    counts = torch.zeros_like(expected)
    for text in texts:
        assert text.context == [start]
        counts[text.continuation[0]] += 1
    # Total variation of 4,000 draws from 128 tokens is about 0.06.
    assert float((counts / len(texts) - expected).abs().sum() / 2) < 0.1


def test_samples_are_the_same_for_a_seed_and_end_with_the_end_of_sequence() -> None:
    from gdo_cli.lm.generation import sample_texts

    lm = AnswerLM(tiny_model("llama", noise=0.3), torch.float32)
    before = torch.get_rng_state()
    one, again, other = (sample_texts(lm, 40, 60, 1.0, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == again != other
    eos = lm.model.config.eos_token_id
    ended = [text for text in one if len(text.continuation) < 60]
    assert ended
    assert all(text.continuation[-1] == eos and eos not in text.continuation[:-1] for text in ended)


def test_a_run_rehearses_what_the_base_wrote(tiny_run: RunFactory) -> None:
    words = ("method=replay_self", "method.samples=6", "method.items=2", "method.max_tokens=8")
    done = experiment.run(tiny_run(*words, "train.steps=2"))
    assert all(line["penalty"] > 0 for line in done.metrics if line["kind"] == "train")


def test_a_run_rehearses_texts_of_ones_own(tiny_run: RunFactory, tmp_path: Path) -> None:
    file = tmp_path / "old.csv"
    file.write_text("text\n" + "".join(f"Line {n} of what it knew.\n" for n in range(6)))
    done = experiment.run(tiny_run("method=replay_own", f"method.path={file}", "train.steps=2"))
    assert done.record.data["replay"]["texts"] == 6
    assert all(line["penalty"] > 0 for line in done.metrics if line["kind"] == "train")
