"""The loop: what the loss counts, what a step is, in which order examples come, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from conftest import BOS, EOS, N_LAYERS, bits, changed, random_queries, tiny_model, trainable
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.tokens import Encoded
from gdo_cli.methods.grow import GFreeze
from gdo_cli.methods.sft import SFT
from gdo_cli.support.errors import RunFailed
from gdo_cli.training.batches import batches, collate
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.loop import Step, train

CONFIG = TrainConfig(lr=1e-3, steps=3, batch_size=4, precision="fp32")


def ready(family: str = "gemma3") -> AnswerLM:
    return AnswerLM(SFT().prepare(tiny_model(family), None), torch.float32)


def run(lm: AnswerLM, examples: list[Encoded], seed: int = 0, **settings: Any) -> list[Step]:
    return list(train(lm, examples, replace(CONFIG, **settings), seed, EOS))


def labels(examples: list[Encoded], loss_on: str) -> tuple[Tensor, Tensor]:
    """Input and labels as transformers takes them: -100 where nothing is learnt."""
    rows = [e.context + e.continuation + [EOS] for e in examples]
    width = max(map(len, rows))
    ids, targets = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    for n, (example, row) in enumerate(zip(examples, rows, strict=True)):
        ids[n, : len(row)] = torch.tensor(row)
        first = len(example.context) if loss_on == "answer" else 0
        targets[n, first : len(row)] = torch.tensor(row[first:])
    return ids, targets


def textbook_loss(model: PreTrainedModel, examples: list[Encoded], loss_on: str) -> Tensor:
    """Full logits, shifted by one, CrossEntropyLoss over the labels."""
    ids, targets = labels(examples, loss_on)
    logits = model(input_ids=ids).logits[:, :-1]
    loss: Tensor = nn.CrossEntropyLoss()(logits.flatten(0, 1), targets[:, 1:].flatten())
    return loss


on_both = pytest.mark.parametrize("loss_on", ["answer", "sequence"])

# ---------------------------------------------------------------------------------------- batches


def test_collating_names_the_places_before_each_answer_token_and_the_end() -> None:
    examples = [Encoded([BOS, 10, 11], [20, 21]), Encoded([BOS], [30])]
    batch = collate(examples, EOS, "answer")
    assert batch.input_ids_BT.tolist() == [[BOS, 10, 11, 20, 21, EOS], [BOS, 30, EOS, 0, 0, 0]]
    assert batch.positions_N.tolist() == [2, 3, 4, 6, 7]
    assert batch.targets_N.tolist() == [20, 21, EOS, 30, EOS]
    assert batch.lengths == [6, 3]
    assert batch.prompt_lengths == [3, 1]


def test_loss_on_the_sequence_counts_all_but_the_first_token() -> None:
    batch = collate([Encoded([BOS, 10, 11], [20]), Encoded([BOS], [30])], EOS, "sequence")
    assert batch.positions_N.tolist() == [0, 1, 2, 3, 5, 6]
    assert batch.targets_N.tolist() == [10, 11, 20, EOS, 30, EOS]


@on_both
def test_the_loss_of_a_step_equals_cross_entropy_over_labelled_logits(family: str, loss_on: str) -> None:
    examples = random_queries(8)
    (step,) = run(ready(family), examples, steps=1, batch_size=8, loss_on=loss_on)
    with torch.no_grad():
        assert step.loss == pytest.approx(
            float(textbook_loss(tiny_model(family), examples, loss_on)), rel=1e-5
        )
    assert step.tokens == sum(len(e) + 1 for e in examples)


@on_both
def test_the_gradient_of_a_step_equals_that_of_the_textbook_loss(loss_on: str) -> None:
    """Seen through one step of plain sign descent: Adam's first step is the gradient's sign."""
    examples = random_queries(6)
    reference = ready().model
    loss = textbook_loss(reference, examples, loss_on)
    loss.backward()
    gradients = {name: p.grad for name, p in trainable(reference).items()}
    norm = float(nn.utils.get_total_norm([g for g in gradients.values() if g is not None]))
    lm, before = ready(), bits(reference)
    (step,) = run(lm, examples, steps=1, batch_size=6, loss_on=loss_on, max_grad_norm=1e9)
    assert step.grad_norm == pytest.approx(norm, rel=1e-5)
    for name, parameter in trainable(lm.model).items():
        gradient = gradients[name]
        assert gradient is not None
        large = gradient.abs() > 1e-5  # far above Adam's epsilon and the rounding of either sum
        moved = (parameter.detach() - before[name])[large]
        torch.testing.assert_close(moved, -1e-3 * gradient[large].sign(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("n", [5, 8])
def test_every_epoch_is_a_permutation_of_the_examples(n: int) -> None:
    examples = random_queries(n)
    flat = [id(e) for batch in islice(batches(examples, 3, seed=7), n) for e in batch]
    epochs = [flat[i * n : (i + 1) * n] for i in range(3)]
    assert all(sorted(epoch) == sorted(map(id, examples)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


@pytest.mark.parametrize("start", [0, 1, 4, 17])
def test_batches_are_a_pure_function_of_seed_and_position(start: int) -> None:
    examples = random_queries(7)
    whole = list(islice(batches(examples, 3, seed=1), start + 10))
    torch.manual_seed(99)  # no other source of chance has a say
    assert list(islice(batches(examples, 3, seed=1, start=start), 10)) == whole[start:]
    assert list(islice(batches(examples, 3, seed=2, start=start), 10)) != whole[start:]


def test_a_batch_larger_than_the_data_takes_examples_from_several_epochs() -> None:
    examples = random_queries(3)
    (batch,) = islice(batches(examples, 7, seed=0), 1)
    assert len(batch) == 7
    assert sorted(map(id, batch[:3])) == sorted(map(id, batch[3:6])) == sorted(map(id, examples))


# ------------------------------------------------------------------------------------------ steps


@on_both
def test_accumulating_gradients_equals_one_large_batch(loss_on: str) -> None:
    """Examples of unequal length: a mean of means would weigh their tokens differently."""
    examples = random_queries(16)
    settings: dict[str, Any] = {"loss_on": loss_on, "adam_epsilon": 1e-3}
    large, small = ready(), ready()
    whole = run(large, examples, batch_size=8, max_grad_norm=1.0, **settings)
    parts = run(small, examples, batch_size=2, gradient_accumulation_steps=4, max_grad_norm=1.0, **settings)
    for one, other in zip(whole, parts, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
        assert one.tokens == other.tokens
    for name, parameter in trainable(large.model).items():
        torch.testing.assert_close(trainable(small.model)[name], parameter, rtol=0, atol=2e-6)


def test_the_same_seed_trains_to_the_same_bits_and_another_one_does_not() -> None:
    examples = random_queries(16)
    models = [ready() for _ in range(3)]
    first, again, other = (run(lm, examples, seed) for lm, seed in zip(models, (0, 0, 1), strict=True))
    assert [s.loss for s in first] == [s.loss for s in again] != [s.loss for s in other]
    assert not changed(bits(models[0].model), models[1].model)
    assert changed(bits(models[0].model), models[2].model)


def test_training_equals_adamw_written_out(gemma3: PreTrainedModel) -> None:
    examples = random_queries(4)
    settings: dict[str, Any] = {
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-4,
    }
    lm, reference = ready(), SFT().prepare(gemma3, None)
    run(lm, examples, steps=5, **settings)
    optimizer = torch.optim.AdamW(
        trainable(reference).values(), lr=1e-3, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1
    )
    for _ in range(5):  # a batch is all of the data, so its order does not matter
        optimizer.zero_grad()
        textbook_loss(reference, examples, "answer").backward()
        optimizer.step()
    for name, parameter in trainable(reference).items():
        torch.testing.assert_close(trainable(lm.model)[name], parameter, rtol=0, atol=1e-5)


def test_learning_lowers_the_loss() -> None:
    steps = run(ready(), random_queries(8), steps=40, batch_size=8, lr=1e-2)
    assert steps[-1].loss < 0.2 * steps[0].loss


def test_the_rate_warms_up_and_then_follows_its_schedule() -> None:
    warm = run(ready(), random_queries(4), steps=6, warmup_steps=3, lr_scheduler="constant_with_warmup")
    assert [s.lr for s in warm] == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3])
    falling = run(ready(), random_queries(4), steps=4, lr_scheduler="linear")
    assert [s.lr for s in falling] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert [s.step for s in falling] == [1, 2, 3, 4]


def test_epochs_give_as_many_steps_as_pass_over_the_data() -> None:
    assert len(run(ready(), random_queries(10), steps=None, epochs=2.0, batch_size=5)) == 4


def test_the_recorded_gradient_norm_is_that_before_clipping() -> None:
    examples = random_queries(4)
    free, clipped = (run(ready(), examples, max_grad_norm=norm) for norm in (1e9, 1e-3))
    assert free[0].grad_norm == pytest.approx(clipped[0].grad_norm, rel=1e-6)
    assert run(ready(), examples, max_grad_norm=None)[0].grad_norm == pytest.approx(
        free[0].grad_norm, rel=1e-6
    )


def test_nothing_but_the_trainable_parameters_receives_a_gradient() -> None:
    model = GFreeze().prepare(tiny_model("gemma3"), [1])
    steps = train(AnswerLM(model, torch.float32), random_queries(4), CONFIG, 0, EOS)
    seen: set[str] = set()
    for name, parameter in trainable(model).items():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.add(name))
    next(steps)
    assert seen == set(trainable(model))
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert len(seen) == 3 < 3 * N_LAYERS


# --------------------------------------------------------------------------------------- failures


def failing(lm: AnswerLM, **settings: Any) -> tuple[int, str]:
    """Steps that were done, and the message that ended the run."""
    done = 0
    steps = train(lm, random_queries(8), replace(CONFIG, **settings), 0, EOS)
    with pytest.raises(RunFailed) as failure:  # noqa: PT012 - the loop is what is tested
        for _ in steps:
            done += 1
    return done, str(failure.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(value: float) -> None:
    lm = ready()
    next(iter(trainable(lm.model).values())).data[:, 0] = value
    done, message = failing(lm)
    assert done == 0
    assert message.startswith("step 1: the loss is nan")
    assert "train.lr=0.001" in message


def test_a_later_step_is_named_too_and_leaves_the_weights_of_the_step_before() -> None:
    lm, kept = ready(), {}
    steps = train(lm, random_queries(8), replace(CONFIG, steps=9), 0, EOS)
    with pytest.raises(RunFailed, match=r"^step 3: "):  # noqa: PT012 - the loop is what is tested
        for step in steps:
            if step.step == 2:
                trainable(lm.model)["model.norm.weight"].data.fill_(torch.inf)
                kept = bits(lm.model)
    assert not changed(kept, lm.model)


def overflowing(after: int) -> Callable[[Tensor], Tensor]:
    """A hook that lets so many backward passes through, then gives infinite gradients."""
    calls = iter(range(after))
    return lambda gradient: gradient if next(calls, None) is not None else gradient * torch.inf


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_ends_the_run_too(max_grad_norm: float | None) -> None:
    """The loss of its own step still looks sound; one step later every weight would be lost."""
    lm = ready()
    parameter = next(iter(trainable(lm.model).values()))
    parameter.register_hook(overflowing(after=2))
    done, message = failing(lm, max_grad_norm=max_grad_norm)
    assert done == 2
    assert message.startswith("step 3: ")
    assert all(bool(p.isfinite().all()) for p in lm.model.parameters())
