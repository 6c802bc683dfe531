"""Optimizers: Adafactor against optax's rule in NumPy, what each keeps, rates by module, what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_LAYERS, TINY_RUN, RunFactory, descend, logits, random_ids, tiny_model, trainable, twin
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from gdo_cli.config.build import load_run
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.plan import plan, why_not
from gdo_cli.experiment.weights import check_method
from gdo_cli.lm.decoder import module_kind
from gdo_cli.methods.base import Method
from gdo_cli.methods.grow import GFreeze, GTrain
from gdo_cli.methods.partial import Partial
from gdo_cli.methods.sft import SFT
from gdo_cli.support.errors import UserError
from gdo_cli.training.config import OPTIMIZERS, TrainConfig
from gdo_cli.training.optimizers import build_optimizer, check_optimizer, rate_factors, state_bytes
from gdo_cli.training.updates import UpdateTracker

STEPS, LR = 25, 1e-3

# -------------------------------------------------------------------------------------- Adafactor


def rms(x: Any) -> Any:
    return np.sqrt(np.mean(np.square(x)))


def optax_adafactor(theta: Any, gradients: list[Any], smallest: int = 128, decay: float = 0.0) -> list[Any]:
    """``optax.adafactor(LR)``, written out in float64; what it has after each step.

    Args:
        smallest: optax's min_dim_size_to_factor.
        decay: optax's weight_decay_rate.
    """
    factored = theta.ndim == 2 and min(theta.shape) >= smallest
    v, rows, columns, after = 0.0, 0.0, 0.0, []
    for t, gradient in enumerate(gradients, start=1):
        rate, square = t**-0.8, gradient * gradient + 1e-30
        if factored:
            rows = (1 - rate) * rows + rate * square.mean(axis=1, keepdims=True)
            columns = (1 - rate) * columns + rate * square.mean(axis=0, keepdims=True)
            v = rows * columns / np.mean(rows)
        else:
            v = (1 - rate) * v + rate * square
        update = gradient / np.sqrt(v)
        update = update / max(1.0, rms(update)) * LR * max(1e-3, rms(theta)) + decay * theta
        theta = theta - update
        after.append(theta)
    return after


def draw(*shape: int, size: float = 0.04) -> Any:
    return size * np.random.default_rng(len(shape)).normal(size=shape)


def gradients_of(theta: Any, size: float) -> list[Any]:
    """Of rows and columns of unlike sizes, that grow and shrink; every third step is one that is clipped."""
    numbers = np.random.default_rng(7)
    scale = np.ones(theta.shape)
    for axis in range(theta.ndim):
        shape = [n if i == axis else 1 for i, n in enumerate(theta.shape)]
        scale = scale * np.exp(numbers.normal(size=shape))
    return [
        size * scale * numbers.normal(size=theta.shape) * (5 if t % 3 == 0 else 1 / (t + 1))
        for t in range(STEPS)
    ]


def by_torch(theta: Any, gradients: list[Any], dtype: torch.dtype, **settings: Any) -> list[Any]:
    """What the project's optimizer has after each step."""
    parameter = nn.Parameter(torch.tensor(theta, dtype=dtype))
    config = TrainConfig(optimizer="adafactor", lr=LR, steps=STEPS, **settings)
    optimizer = build_optimizer([("a.weight", parameter)], config)
    after = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        after.append(parameter.detach().double().numpy().copy())
    return after


def apart(found: list[Any], expected: list[Any], start: Any) -> float:
    """The largest root mean square by which they differ after any step, in steps of the first one's size."""
    step = rms(expected[0] - start)
    return max(float(rms(a - b) / step) for a, b in zip(found, expected, strict=True))


SHAPES = {"matrix": (128, 160), "wide": (130, 400), "tall": (400, 130), "vector": (64,), "scalar": ()}
PRECISIONS = {torch.float64: 1e-9, torch.float32: 5e-3}  # a step is a thousandth of a weight


@pytest.mark.parametrize(("dtype", "within"), PRECISIONS.items(), ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_adafactor_is_optaxs(shape: tuple[int, ...], dtype: torch.dtype, within: float) -> None:
    theta = draw(*shape)
    gradients = gradients_of(theta, 1e-3)
    expected = optax_adafactor(theta, gradients)
    assert apart(by_torch(theta, gradients, dtype), expected, theta) < within


@pytest.mark.parametrize("size", [1e-8, 1e-5, 1.0, 300.0])
@pytest.mark.parametrize("shape", [(128, 160), (64,)], ids=["matrix", "vector"])
def test_it_is_so_whatever_the_size_of_the_gradients(shape: tuple[int, ...], size: float) -> None:
    """The steps do not depend on it at all; with torch's own ε those of small gradients would."""
    theta = draw(*shape)
    gradients = gradients_of(theta, size)
    expected = optax_adafactor(theta, gradients)
    assert apart(by_torch(theta, gradients, torch.float32), expected, theta) < 5e-3
    parameter = nn.Parameter(torch.tensor(theta, dtype=torch.float32))
    plain = torch.optim.Adafactor([parameter], lr=LR)
    if size < 1e-6:
        parameter.grad = torch.tensor(gradients[0], dtype=torch.float32)
        plain.step()
        assert apart([parameter.detach().double().numpy()], expected[:1], theta) > 0.1


@pytest.mark.parametrize("size", [1e-6, 1.0, 376.0])
def test_steps_are_relative_to_a_parameters_size_down_to_a_thousandth(size: float) -> None:
    theta = draw(128, 160, size=size)
    gradients = gradients_of(theta, 1e-3)
    found = by_torch(theta, gradients, torch.float64)
    assert apart(found, optax_adafactor(theta, gradients), theta) < 1e-9
    assert rms(found[0] - theta) == pytest.approx(LR * max(1e-3, size), rel=0.02)


def test_rows_that_get_no_gradient_stay_and_are_no_numbers_less_than_others() -> None:
    theta = draw(128, 160)
    gradients = [gradient * (np.arange(128)[:, None] % 2) for gradient in gradients_of(theta, 1e-3)]
    found = by_torch(theta, gradients, torch.float32)
    assert apart(found, optax_adafactor(theta, gradients), theta) < 5e-3
    np.testing.assert_array_equal(found[-1][::2], theta[::2].astype(np.float32))


def test_small_matrices_are_factored_here_and_not_by_optax() -> None:
    theta = draw(16, 640)
    gradients = gradients_of(theta, 1e-3)
    found = by_torch(theta, gradients, torch.float64)
    assert apart(found, optax_adafactor(theta, gradients, smallest=1), theta) < 1e-9
    assert apart(found, optax_adafactor(theta, gradients), theta) > 0.1


def test_steps_of_small_matrices_come_nearer_to_optaxs_with_time() -> None:
    theta = draw(640, 16)
    gradients = list(np.random.default_rng(0).normal(size=(120, 640, 16)))
    ours, theirs = by_torch(theta, gradients, torch.float64), optax_adafactor(theta, gradients)
    steps = [np.diff([theta, *after], axis=0) for after in (ours, theirs)]
    found = [rms(steps[0][t] - steps[1][t]) / rms(steps[1][t]) for t in (0, 19, 119)]
    assert found == pytest.approx([0.61, 0.17, 0.078], abs=0.02)  # as the docstring of _adafactor has them


def test_weight_decay_is_optaxs_times_the_rate() -> None:
    theta = draw(128, 160)
    gradients = gradients_of(theta, 1e-3)
    expected = optax_adafactor(theta, gradients, decay=LR * 0.1)
    assert apart(by_torch(theta, gradients, torch.float64, weight_decay=0.1), expected, theta) < 1e-9


# ---------------------------------------------------------------------------------- rates by module


def named(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


METHODS = {"sft": SFT(), "g_freeze": GFreeze(), "mlp_only": Partial("mlp")}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_name_is_that_of_every_module_that_ends_in_it(method: Method) -> None:
    model = method.prepare(tiny_model("gemma3"), None)
    found = rate_factors(model.named_parameters(), {"gate_proj": 0.5, "layers.1.mlp.down_proj": 3.0})
    assert list(found) == named(model)
    halved = [name for name, factor in found.items() if factor == 0.5]
    assert [module_kind(name) for name in halved] == ["gate_proj"] * N_LAYERS
    (tripled,) = [name for name, factor in found.items() if factor == 3]
    assert "layers.1.mlp.down_proj" in tripled
    assert all(factor == 1 for name, factor in found.items() if name not in (*halved, tripled))


def test_every_step_takes_the_factors_and_the_schedule_both() -> None:
    """Plain gradient descent: a step is the rate times the gradient."""
    model = SFT().prepare(tiny_model("gemma3"), None)
    config = TrainConfig(optimizer="sgd", lr=0.1, lr_scale={"mlp": 0.25, "embed_tokens": 2.0})
    optimizer = build_optimizer(model.named_parameters(), config)
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    descend(model, optimizer, 1)
    for name, parameter in trainable(model).items():
        factor = 0.25 if ".mlp." in name else 2.0 if "embed" in name else 1.0
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * factor * parameter.grad)


def test_the_rate_on_record_is_the_one_without_factors(tiny_run: RunFactory) -> None:
    words = ("method=mlp_only", "train.lr=1e-3", "train.lr_scheduler=linear", "train.warmup_steps=2")
    plain = experiment.run(tiny_run(*words))
    scaled = experiment.run(tiny_run(*words, "train.lr_scale={gate_proj: 0.3, up_proj: 0.7, down_proj: 3}"))
    rates = [[line["lr"] for line in run.metrics if line["kind"] == "train"] for run in (plain, scaled)]
    assert rates[0] == pytest.approx([0, 0.5e-3, 1e-3, 0.5e-3])
    assert rates[1] == pytest.approx(rates[0])
    assert plain.id != scaled.id
    assert plain.final != scaled.final


@pytest.mark.parametrize(
    ("method", "scale", "message"),
    [
        ("sft", "{gate_prj: 0.5}", "train.lr_scale.gate_prj: no part .* did you mean 'gate_proj'"),
        ("g_freeze", "{q_proj: 0.5}", "choose from: down_proj, gate_proj, up_proj$"),
        ("lora", "{lora_C: 2}", "did you mean 'lora_B'"),
        ("sft", "{gate: 0.5}", "train.lr_scale.gate: no part"),
        ("sft", "{mlp: 0.5, gate_proj: 0.5}", "mlp and gate_proj both name model.layers.0.mlp.gate_proj"),
        ("sft", "{mlp: 0}", "train.lr_scale.mlp=0.0: must be positive"),
        ("sft", "{mlp: fast}", "train.lr_scale.mlp: must be a number"),
        ("sft", "fast", "train.lr_scale"),
    ],
)
def test_a_factor_that_means_nothing_is_refused_before_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch, method: str, scale: str, message: str
) -> None:
    monkeypatch.setattr(experiment, "Opened", lambda _: pytest.fail("rows were read"))
    with pytest.raises(UserError, match=message):
        experiment.run(load_run([*TINY_RUN, f"method={method}", f"train.lr_scale={scale}"]))


def test_a_sweep_refuses_it_too() -> None:
    assert why_not(load_run([*TINY_RUN, "train.lr_scale={gate_proj: 2}"])) is None
    assert "nothing_such" in str(why_not(load_run([*TINY_RUN, "train.lr_scale={nothing_such: 2}"])))


def test_the_model_that_is_loaded_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its shape is not known beforehand."""
    monkeypatch.setattr(experiment, "why_not", lambda _: None)
    monkeypatch.setattr(experiment._Run, "evaluate", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(UserError, match="nothing_such"):
        experiment.run(load_run([*TINY_RUN, "train.lr_scale={nothing_such: 2}"]))


# -------------------------------------------------------- growth and halved steps, to first order


def after_adam(method: Method, lr: float, **settings: Any) -> PreTrainedModel:
    """The tiny model after a few steps of Adam, in float64."""
    model = method.prepare(twin(tiny_model("gemma3")), None).to(torch.float64)
    config = TrainConfig(lr=lr, adam_epsilon=1e-30, **settings)
    descend(model, build_optimizer(model.named_parameters(), config), 4)
    return model


def distance(one: PreTrainedModel, other: PreTrainedModel) -> float:
    ids = random_ids(4, 12, seed=99)
    return float(torch.linalg.vector_norm(logits(one, ids) - logits(other, ids)))


HALF = {"gate_proj": 0.5, "up_proj": 0.5}


def test_g_freeze_is_to_first_order_mlps_in_place_with_half_the_step_on_gate_and_up() -> None:
    """½·MLP + D'h(G', U') with D' = ½D: G' moves by a step where D' counts half, D' by a whole one."""
    base = twin(tiny_model("gemma3"))
    rates = [1e-4, 0.5e-4, 0.25e-4]
    grown = [after_adam(GFreeze(), lr) for lr in rates]
    halved = [after_adam(Partial("mlp"), lr, lr_scale=HALF) for lr in rates]
    plain = [after_adam(Partial("mlp"), lr) for lr in rates]
    moved = [distance(model, base) for model in grown]
    left = [distance(one, other) for one, other in zip(grown, halved, strict=True)]
    whole = [distance(one, other) for one, other in zip(grown, plain, strict=True)]
    for first, second in ((0, 1), (1, 2)):
        assert moved[first] / moved[second] == pytest.approx(2, rel=0.02)
        assert left[first] / left[second] == pytest.approx(
            4, rel=0.05
        )  # of second order: nothing else is left
        assert whole[first] / whole[second] == pytest.approx(2, rel=0.02)  # with whole steps, one of first
    assert left[-1] < 0.01 * moved[-1]
    assert whole[-1] > 0.1 * moved[-1]


def test_g_train_folds_back_under_adafactor_too() -> None:
    """A matrix of two equal halves has the root mean square, and the means of squares, of one of them."""
    grown = GTrain().prepare(twin(tiny_model("gemma3")), None).to(torch.float64)
    base = Partial("up").prepare(twin(tiny_model("gemma3")), None)
    for model in (grown, base):
        config = TrainConfig(optimizer="adafactor", lr=1e-2)
        descend(model, build_optimizer(model.named_parameters(), config), STEPS)
    moved = distance(base, twin(tiny_model("gemma3")))
    assert moved > 1e-2
    assert distance(base, grown) < 1e-9 * moved


# ----------------------------------------------------------------------------- what each one keeps

PRESENT = [name for name in OPTIMIZERS if name != "adam8bit"]


def tensors(state: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in state.items():
        if isinstance(value, dict):
            yield from tensors(value)
        elif isinstance(value, torch.Tensor):
            yield key, value


@pytest.fixture(params=[*PRESENT, "adam8bit"])
def optimizer_name(request: pytest.FixtureRequest) -> str:
    if request.param == "adam8bit":
        pytest.importorskip("bitsandbytes")
    return str(request.param)


def test_the_plan_counts_what_the_optimizer_keeps(optimizer_name: str) -> None:
    model = SFT().prepare(tiny_model("llama"), None)  # with biases
    optimizer = build_optimizer(model.named_parameters(), TrainConfig(optimizer=optimizer_name))
    descend(model, optimizer, 1)
    kept = tensors(optimizer.state_dict()["state"])
    counted = sum(t.nbytes for key, t in kept if key != "step" and not key.startswith("qmap"))
    parameters = trainable(model).values()
    assert sum(state_bytes(p, optimizer_name) for p in parameters) == counted


@pytest.mark.few(1)
def test_a_plan_has_gradients_and_what_the_optimizer_keeps_of_all_that_trains(optimizer_name: str) -> None:
    rate = ["train.lr=1e-3"] if optimizer_name == "adafactor" else []
    config = load_run(["model=gemma3_270m", "method=sft", f"train.optimizer={optimizer_name}", *rate])
    shape = config.model.shape("gemma3_270m") or {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    needed = [4 * p.numel() + state_bytes(p, optimizer_name) for p in model.parameters()]
    assert plan(config, 8).training == sum(needed)


@pytest.mark.few(1)
def test_an_optimizer_learns(optimizer_name: str, tiny_run: RunFactory) -> None:
    rates = {"adam": 1e-2, "adam8bit": 1e-2, "adafactor": 5e-2, "sgd": 1e-1}
    words = (f"train.optimizer={optimizer_name}", f"train.lr={rates[optimizer_name]}", "train.steps=12")
    losses = [
        line["loss"] for line in experiment.run(tiny_run("method=sft", *words)).metrics if "loss" in line
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_adam_with_8_bits_is_nearly_adam() -> None:
    pytest.importorskip("bitsandbytes")
    models = [SFT().prepare(tiny_model("gemma3"), None) for _ in range(2)]
    start = tiny_model("gemma3")
    for model, name in zip(models, ("adam", "adam8bit"), strict=True):
        descend(model, build_optimizer(model.named_parameters(), TrainConfig(optimizer=name, lr=1e-3)), 10)
    assert distance(*models) < 0.2 * distance(models[0], start)


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=adam_w"], "train.optimizer=adam_w: unknown; did you mean 'adam'"),
        (["optimizer=sgd", "adam_beta1=0.5"], "train.adam_beta1=0.5: train.optimizer=sgd has none"),
        (["optimizer=adafactor", "adam_epsilon=1e-6"], "train.adam_epsilon=1e-06: train.optimizer=adafactor"),
        (
            ["optimizer=adafactor", "shard=true"],
            "train.shard=true: train.optimizer=adafactor needs its matrices",
        ),
        (
            ["optimizer=adam8bit", "shard=true"],
            "train.shard=true: train.optimizer=adam8bit needs its matrices",
        ),
        (["optimizer=adafactor", "lr=0.1", "steps=400"], "in 400 steps at most 0.05"),
        (["optimizer=adafactor", "lr=0.04", "steps=400", "lr_scale={mlp: 2}"], "in 400 steps at most 0.05"),
    ],
)
def test_what_does_not_go_with_the_optimizer_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_run([*TINY_RUN, *(f"train.{word}" for word in words)])


def test_a_rate_too_high_for_adafactors_epochs_is_refused_once_they_are_counted() -> None:
    config = TrainConfig(optimizer="adafactor", lr=0.1, steps=None, epochs=10, batch_size=1)
    assert config.total_steps(10) == 100
    with pytest.raises(UserError, match="in 1000 steps at most"):
        config.total_steps(100)


def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)


def with_one_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(torch.optim.SGD):
        def __init__(self, groups: Any, **settings: Any) -> None:
            super().__init__(groups, lr=settings["lr"])

        def step(self, closure: Any = None) -> Any:
            raise NotImplementedError("no kernel for this device\nand a long trace")

    broken = ModuleType("bitsandbytes")
    broken.optim = ModuleType("bitsandbytes.optim")  # type: ignore[attr-defined]
    broken.optim.AdamW8bit = Broken
    monkeypatch.setitem(sys.modules, "bitsandbytes", broken)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (without_bitsandbytes, r"bitsandbytes is not installed: pip install 'gdo-cli\[adam8bit\]'$"),
        (
            with_one_that_breaks,
            r"does not run here, on \w+ \(no kernel for this device\); choose train.optimizer",
        ),
    ],
)
def test_an_optimizer_that_cannot_run_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, prepare: Callable[[pytest.MonkeyPatch], None], message: str
) -> None:
    check_optimizer.cache_clear()
    prepare(monkeypatch)
    monkeypatch.setattr(experiment, "Opened", lambda _: pytest.fail("rows were read"))
    config = load_run([*TINY_RUN, "train.optimizer=adam8bit"])
    with pytest.raises(UserError, match=message):
        experiment.run(config)
    with pytest.raises(UserError, match=message):
        check_method(config)


# ----------------------------------------------------------------------------------- how far it goes


def test_kinds_of_parameters_are_told_apart_and_measured_against_their_size() -> None:
    model = SFT().prepare(tiny_model("gemma3"), None)
    tracker = UpdateTracker(model, with_rank=False)
    start = {name: p.detach().clone() for name, p in trainable(model).items()}
    assert all(kind == {"norm": 0.0, "relative": 0.0} for kind in tracker.by_kind().values())
    descend(model, build_optimizer(model.named_parameters(), TrainConfig(optimizer="sgd", lr=0.1)), 3)
    found = tracker.by_kind()
    projections = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert found.keys() == {"embedding", "norm"} | projections
    for kind, moved in found.items():
        names = [name for name in start if module_kind(name) == kind]
        now = torch.cat([trainable(model)[name].detach().flatten() for name in names]).double()
        before = torch.cat([start[name].flatten() for name in names]).double()
        norm = float(torch.linalg.vector_norm(now - before))
        assert moved["norm"] == pytest.approx(norm, rel=1e-5)
        assert moved["relative"] == pytest.approx(norm / float(torch.linalg.vector_norm(before)), rel=1e-5)


def test_a_start_that_fits_bf16_is_kept_in_it_and_measures_the_same() -> None:
    wide = SFT().prepare(tiny_model("gemma3"), None)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.copy_(parameter.bfloat16())
    tracker, start = (
        UpdateTracker(wide, with_rank=True),
        {n: p.detach().clone() for n, p in trainable(wide).items()},
    )
    assert {tensor.dtype for tensor in tracker.start.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in tracker.last.values()} == {torch.float32}
    descend(wide, build_optimizer(wide.named_parameters(), TrainConfig(lr=1e-3)), 2)
    rows = {(row["layer"], row["module"]): row["norm"] for row in tracker.norms()}
    assert len(rows) == 7 * N_LAYERS
    for name in tracker.matrices:
        moved = float(torch.linalg.vector_norm(trainable(wide)[name].detach() - start[name]))
        place = UpdateTracker._place(name)
        assert rows[place["layer"], place["module"]] == moved
    exact = UpdateTracker(SFT().prepare(tiny_model("gemma3"), None), with_rank=False)
    assert {tensor.dtype for tensor in exact.start.values()} == {torch.float32}


def test_a_run_says_how_far_each_kind_has_moved_at_each_evaluation(tiny_run: RunFactory) -> None:
    run = experiment.run(tiny_run("method=sft", "train.lr=1e-2"))
    assert [line["step"] for line in run.moved] == [2, 4]
    first, last = (line["kinds"] for line in run.moved)
    assert first.keys() == last.keys() == run.record.parameters.trainable_by_module.keys()
    for kind, moved in last.items():
        assert 0 < first[kind]["norm"] < moved["norm"]
        assert moved["relative"] is None or moved["relative"] > first[kind]["relative"]
    gate = [row["norm"] for row in run.record.updates if row["module"] == "gate_proj"]
    assert last["gate_proj"]["norm"] == pytest.approx(sum(norm**2 for norm in gate) ** 0.5, rel=1e-5)
    frozen = experiment.run(tiny_run("method=frozen"))
    assert [line["kinds"] for line in frozen.moved] == []
