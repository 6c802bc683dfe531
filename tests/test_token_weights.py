"""Claims about weights in the loss: of tokens and of rows, against loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EOS, RunFactory, random_ids, tiny_model
from torch import Tensor

from gdo_cli.config.build import load_run
from gdo_cli.data.dataset import RowError
from gdo_cli.experiment.run import run
from gdo_cli.lm.answer_lm import LOSS_ROWS, AnswerLM
from gdo_cli.lm.tokens import Encoded
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.jsonl import JSONL
from gdo_cli.training.batches import collate
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.loop import _Learner
from gdo_cli.training.token_weights import token_weights

FAMILIES = ("gemma3", "llama", "phi")  # a head of its own memory, one that is the embedding, one with a bias


def examples(n: int, weights: list[float] | None = None) -> list[Encoded]:
    ids = random_ids(n, 9).tolist()
    return [Encoded(row[:4], row[4:], weight=w) for row, w in zip(ids, weights or [1.0] * n, strict=True)]


def assert_near(ours: Tensor | None, theirs: Tensor, name: str = "") -> None:
    """fp32 sums in another order: 6e-6 of the largest was measured."""
    assert ours is not None
    assert float((ours - theirs).abs().max()) <= 2e-5 * float(theirs.abs().max()), name


def by_loop(model: Any, rows: list[Encoded], kind: str) -> tuple[Tensor, int]:
    """The weighted loss, token by token, from the model's own forward; and the number of answer tokens."""
    total, n = torch.zeros(()), 0
    for row in rows:
        ids = [*row.context, *row.continuation, EOS]
        logits = model(torch.tensor([ids])).logits[0].float()
        for t in range(len(row.context), len(ids)):
            logprobs = logits[t - 1] - torch.logsumexp(logits[t - 1], 0)
            p = float(logprobs[ids[t]].detach().exp())
            weight = {"equal": 1.0, "dft": p, "likely": float(p >= 0.01)}[kind]
            total = total - row.weight * weight * logprobs[ids[t]]
            n += 1
    return total, n


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["equal", "dft", "likely"])
@pytest.mark.parametrize("n", [3, LOSS_ROWS // 4])
def test_losses_and_gradients_are_those_of_a_loop(family: str, kind: str, n: int) -> None:
    rows = examples(n, [0.5 + i % 3 for i in range(n)])
    config = TrainConfig(token_weights=kind, least_probability=0.01 if kind == "likely" else 0.4)
    model, twin = (tiny_model(family, noise=0.2).requires_grad_(True) for _ in range(2))
    loss, _ = _Learner(AnswerLM(model, torch.float32), None, config)(collate(rows, EOS, "answer"))
    expected, _ = by_loop(twin, rows, kind)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        if theirs.grad is not None:
            assert_near(ours.grad, theirs.grad, name)


def test_dft_is_the_gradient_of_the_probability_itself() -> None:
    """sg(p)·∇log p = ∇p: Dynamic Fine-Tuning (2025), equation 9, climbs the mean probability."""
    rows = examples(2)
    model, twin = (tiny_model("llama", noise=0.2).requires_grad_(True) for _ in range(2))
    loss, _ = _Learner(AnswerLM(model, torch.float32), None, TrainConfig(token_weights="dft"))(
        collate(rows, EOS, "answer")
    )
    loss.backward()
    total = torch.zeros(())
    for row in rows:
        ids = [*row.context, *row.continuation, EOS]
        probabilities = twin(torch.tensor([ids])).logits[0].float().softmax(-1)
        total = total - sum(probabilities[t - 1, ids[t]] for t in range(len(row.context), len(ids)))
    total.backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        if theirs.grad is not None:
            assert_near(ours.grad, theirs.grad)


def test_equal_weights_cost_nothing() -> None:
    lm = AnswerLM(tiny_model("llama"), torch.float32)
    assert token_weights(lm, torch.zeros(1, 32), torch.zeros(1, dtype=torch.long), TrainConfig()) is None
    assert collate(examples(2), EOS, "answer").weights_N is None


def test_a_row_of_weight_two_is_the_row_twice(tiny_run: RunFactory, tmp_path: Path) -> None:
    """In a step that sees all rows."""
    rows = [{"prompt": f"Say {w}:", "completion": w} for w in ("red", "blue", "green", "black")]

    def trained(name: str, content: list[dict[str, Any]], *words: str) -> float:
        n = len(content)
        more = [{"prompt": f"Tell {i}:", "completion": "x", "w": 1} for i in range(4)]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in [*content, *more]))
        splits = f'{{train: "all[:{n}]", validation: "all[{n}:{n + 2}]", test: "all[{n + 2}:]"}}'
        own = ("task=jsonl", f"task.path={file}", f"task.dataset.splits={splits}")
        steps = (f"train.batch_size={n}", "train.steps=1", "method=sft", "train.optimizer=sgd")
        return run(tiny_run(*own, *steps, *words, results_dir=tmp_path / name)).final["task/loss"]

    weighed = [row | {"w": 2.0 if i == 1 else 1} for i, row in enumerate(rows)]
    twice = trained("twice", [*rows, rows[1]])
    assert trained("weighed", weighed, "task.weight=w") == pytest.approx(twice, rel=1e-6)
    assert trained("plain", rows) != pytest.approx(twice, rel=1e-6)


@pytest.mark.parametrize("value", [0, -1, True, None, "much", float("inf")])
def test_a_weight_that_is_none_is_refused(value: object) -> None:
    task = JSONL(path="x", weight="w")
    with pytest.raises(RowError, match="not a number above 0"):
        task.example({"prompt": "a", "completion": "b", "w": value})


def test_a_weight_beside_messages_is_read_where_it_is_asked_for() -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"messages": chat, "weight": "0.5"}
    assert JSONL(path="x", messages="messages", weight="weight").example(row).weight == 0.5
    with pytest.raises(RowError, match="'weight' stands beside"):
        JSONL(path="x", messages="messages").example(row)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.token_weights=dtf"], "did you mean 'dft'"),
        (["train.token_weights=likely", "train.least_probability=1"], "below 1"),
        (["train.least_probability=0.2"], "likely alone"),
    ],
)
def test_settings_that_cannot_be_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_run(["model=tiny", "data=sample", *words])
