"""What growing amounts to: G-Train tunes the ungrown MLP, G-Freeze averages an old and a tuned one.

All in float64 and against references written without the growth tuner.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from conftest import descend, logits, random_ids, tiny_model, trainable, twin
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.lm.decoder import find_decoder, mlp_projections
from gdo_cli.methods.grow import GFreeze, GTrain
from gdo_cli.methods.partial import Partial

STEPS = 15
GATED = ("gemma3", "llama")  # with and without a norm after the MLP
ALL = (*GATED, "phi", "opt")

every_family = pytest.mark.parametrize("family", ALL)
gated_families = pytest.mark.parametrize("family", GATED)
factors = pytest.mark.parametrize("k", [2, 3])


def ungrown(family: str) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """The base in float64 and its up-projections, the only parameters that train."""
    model = twin(tiny_model(family))
    columns, _ = mlp_projections(model)
    parameters = [p for name in columns for p in model.get_submodule(name).parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return model, parameters


def g_train(family: str, k: int) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    model = GTrain(k=k).prepare(twin(tiny_model(family)), None).to(torch.float64)
    return model, list(trainable(model).values())


def adam(parameters: list[nn.Parameter], eps: float = 1e-30, **kwargs: Any) -> torch.optim.Optimizer:
    """Adam that sees only the direction of a gradient history: a factor 1/k on it changes nothing."""
    return torch.optim.AdamW(parameters, lr=1e-3, eps=eps, **kwargs)


def difference(one: PreTrainedModel, other: PreTrainedModel) -> float:
    ids = random_ids(4, 12, seed=99)
    return float((logits(one, ids) - logits(other, ids)).abs().max())


def copies_of(model: PreTrainedModel, name: str, k: int) -> list[Tensor]:
    """The k copies of an up-projection in a G-Train model."""
    wide: Tensor = model.get_submodule(f"base_model.model.{name}").grow["default"].weight
    return list(wide.chunk(k))


# ---------------------------------------------------------------------------------------- G-Train


@cache
def trained_ungrown(family: str) -> PreTrainedModel:
    """The base, its up-projections trained; to be read only."""
    base, parameters = ungrown(family)
    descend(base, adam(parameters, weight_decay=0.1), STEPS)
    return base


@cache
def trained_g_train(family: str, k: int) -> PreTrainedModel:
    """G-Train by the same steps; to be read only."""
    grown, copies = g_train(family, k)
    descend(grown, adam(copies, weight_decay=0.1), STEPS)
    return grown


@pytest.mark.few(3)
@factors
@every_family
def test_g_train_equals_training_the_ungrown_up_projections(family: str, k: int) -> None:
    base = trained_ungrown(family)
    moved = difference(base, twin(tiny_model(family)))
    assert moved > 1e-2
    assert difference(base, trained_g_train(family, k)) < 1e-9 * moved


@pytest.mark.few(3)
@factors
@every_family
def test_the_copies_of_g_train_stay_equal_so_it_folds_back(family: str, k: int) -> None:
    base, grown = trained_ungrown(family), trained_g_train(family, k)
    for name in mlp_projections(base)[0]:
        for copy in copies_of(grown, name, k):
            torch.testing.assert_close(copy, base.get_submodule(name).weight, rtol=0, atol=1e-10)


@gated_families
def test_the_usual_epsilon_of_adam_breaks_the_equality_only_slightly(family: str) -> None:
    base, parameters = ungrown(family)
    grown, copies = g_train(family, 2)
    descend(base, adam(parameters, eps=1e-8), STEPS)
    descend(grown, adam(copies, eps=1e-8), STEPS)
    assert 0 < difference(base, grown) < 1e-3 * difference(base, twin(tiny_model(family)))


@pytest.mark.few(2)
@factors
@every_family
def test_with_sgd_g_train_needs_k_times_the_rate(family: str, k: int) -> None:
    base, parameters = ungrown(family)
    grown, copies = g_train(family, k)
    descend(base, torch.optim.SGD(parameters, lr=0.1), STEPS)
    descend(grown, torch.optim.SGD(copies, lr=0.1 * k), STEPS)
    moved = difference(base, twin(tiny_model(family)))
    assert moved > 1e-4
    assert difference(base, grown) < 1e-9 * moved


@factors
@gated_families
def test_the_gradient_norm_of_g_train_is_smaller_by_the_root_of_k(family: str, k: int) -> None:
    base, parameters = ungrown(family)
    grown, copies = g_train(family, k)
    for model, own in ((base, parameters), (grown, copies)):
        descend(model, torch.optim.SGD(own, lr=0.0), 1)
    norms = [
        float(nn.utils.get_total_norm([p.grad for p in own if p.grad is not None]))
        for own in (parameters, copies)
    ]
    assert norms[1] == pytest.approx(norms[0] / k**0.5, rel=1e-12)


@cache
def clipped_ungrown(family: str, threshold: float) -> PreTrainedModel:
    """The base, trained and clipped hard; to be read only."""
    base, parameters = ungrown(family)
    descend(base, torch.optim.SGD(parameters, lr=1.0), STEPS, threshold)
    return base


def clipped_difference(family: str, k: int, threshold: float, grown_threshold: float) -> float:
    """How far apart the two end when both are clipped hard, relative to how far they moved."""
    base = clipped_ungrown(family, threshold)
    grown, copies = g_train(family, k)
    descend(grown, torch.optim.SGD(copies, lr=1.0 * k), STEPS, grown_threshold)
    return difference(base, grown) / difference(base, twin(tiny_model(family)))


@pytest.mark.few(2)
@factors
@gated_families
def test_clipping_keeps_the_equality_if_its_threshold_is_scaled(family: str, k: int) -> None:
    # clip_grad_norm_ adds 1e-6 to the norm it divides by, which is not scaled with it.
    assert clipped_difference(family, k, 0.01, 0.01 / k**0.5) < 1e-3
    assert clipped_difference(family, k, 0.01, 0.01) > 0.1


@every_family
def test_the_control_without_growth_trains_exactly_what_g_train_is_equal_to(family: str) -> None:
    _, parameters = ungrown(family)
    control = Partial("up").prepare(twin(tiny_model(family)), None)
    assert [p.shape for p in trainable(control).values()] == [p.shape for p in parameters]
    descend(control, adam(list(trainable(control).values()), weight_decay=0.1), STEPS)
    assert difference(control, trained_g_train(family, 2)) < 1e-10


# --------------------------------------------------------------------------------------- G-Freeze


class Mixture(nn.Module):
    """share·trained(x) + (1-share)·frozen(x), over whole MLPs and with no growth in it.

    The trained output projection stores ``share·D``, as a grown layer does, so that an optimizer
    that is not scale-free takes the same path.
    """

    def __init__(self, mlp: nn.Module, trained: nn.Module, down: nn.Module, share: float) -> None:
        super().__init__()
        self.frozen, self.trained, self.share = mlp.requires_grad_(False), trained, share
        self.trained.requires_grad_(True)
        with torch.no_grad():
            for parameter in down.parameters():
                parameter.mul_(share)

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.share) * self.frozen(x) + self.trained(x)  # type: ignore[no-any-return]


def mixed(family: str, share: float) -> PreTrainedModel:
    """The base with every MLP replaced by a mixture of itself and a copy that trains."""
    model, other = twin(tiny_model(family)), twin(tiny_model(family))
    for layer, mlp, copy in zip(find_decoder(model).layers, mlps(model), mlps(other), strict=True):
        down = copy.get_submodule("fc2" if hasattr(copy, "fc2") else "down_proj")
        layer.mlp = Mixture(mlp, copy, down, share)
    return model


def mlps(model: PreTrainedModel) -> list[nn.Module]:
    return [layer.get_submodule("mlp") for layer in find_decoder(model).layers]


def g_freeze(family: str, k: int) -> PreTrainedModel:
    return GFreeze(k=k).prepare(twin(tiny_model(family)), None).to(torch.float64)


@pytest.mark.few(2)
@pytest.mark.parametrize("optimizer", [adam, lambda p: torch.optim.SGD(p, lr=0.1)], ids=["adam", "sgd"])
@pytest.mark.parametrize("family", [*GATED, "phi"])
def test_g_freeze_is_half_the_frozen_mlp_and_half_a_trained_one(family: str, optimizer: Any) -> None:
    grown, reference = g_freeze(family, 2), mixed(family, 0.5)
    assert difference(grown, reference) < 1e-12
    for model in (grown, reference):
        descend(model, optimizer(list(trainable(model).values())), STEPS)
    moved = difference(reference, twin(tiny_model(family)))
    assert moved > 1e-4
    assert difference(grown, reference) < 1e-9 * moved


@gated_families
def test_a_trained_g_freeze_model_is_an_average_of_two_ordinary_mlps(family: str) -> None:
    grown, base = g_freeze(family, 2), twin(tiny_model(family))
    descend(grown, adam(list(trainable(grown).values())), STEPS)
    average = twin(tiny_model(family))
    places = zip(find_decoder(average).layers, mlps(base), mlps(average), mlps(grown), strict=True)
    for layer, old, new, own in places:
        for name, scale in (("gate_proj", 1.0), ("up_proj", 1.0), ("down_proj", 2.0)):
            trained: Any = own.get_submodule(name)
            new.get_submodule(name).weight.data = trained.grow["default"].weight.detach() * scale
            if trained.grow["default"].bias is not None:
                new.get_submodule(name).bias.data = trained.grow["default"].bias.detach() * scale
        layer.mlp = _Average(old, new)
    assert difference(grown, average) < 1e-12


class _Average(nn.Module):
    def __init__(self, old: nn.Module, new: nn.Module) -> None:
        super().__init__()
        self.old, self.new = old, new

    def forward(self, x: Tensor) -> Tensor:
        return (self.old(x) + self.new(x)) / 2  # type: ignore[no-any-return]


def shared_out(model: PreTrainedModel, rate: float, copies: int) -> torch.optim.Optimizer:
    """SGD on one trained MLP that steps as ``copies`` equal ones do together.

    Each copy's columns receive 1/copies of the gradient; the rows of all of them move, and add up.
    """
    groups = []
    for name, parameter in trainable(model).items():
        factor = 1.0 if name.endswith("bias") else float(copies)
        factor = factor if "down_proj" in name else 1 / copies
        groups.append({"params": [parameter], "lr": rate * factor})
    return torch.optim.SGD(groups)


@gated_families
def test_more_copies_of_g_freeze_stay_identical_and_only_set_the_mixture(family: str) -> None:
    grown, reference = g_freeze(family, 3), mixed(family, 2 / 3)
    descend(grown, torch.optim.SGD(trainable(grown).values(), lr=0.1), STEPS)
    descend(reference, shared_out(reference, 0.1, 2), STEPS)
    columns, rows = mlp_projections(tiny_model(family))
    for name in columns + rows:
        weight = grown.get_submodule(f"base_model.model.{name}").grow["default"].weight
        first, second = weight.chunk(2, dim=0 if name in columns else 1)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    moved = difference(reference, twin(tiny_model(family)))
    assert moved > 1e-4
    assert difference(grown, reference) < 1e-9 * moved


@gated_families
def test_halved_rows_take_relative_steps_twice_as_large_under_adam(family: str) -> None:
    grown = g_freeze(family, 2)
    old = {name: p.detach().clone() for name, p in trainable(grown).items()}
    descend(grown, adam(list(trainable(grown).values())), 1)
    steps = {name: float((p.detach() - old[name]).abs().median()) for name, p in trainable(grown).items()}
    sizes = {name: float(p.abs().median()) for name, p in old.items()}
    for name in (n for n in old if "down_proj.grow.default.weight" in n):
        base = grown.get_submodule(name.partition(".grow.")[0]).base_layer.weight
        # The step is the rate, whatever the size of the weight.
        assert steps[name] == pytest.approx(1e-3, rel=0.02)
        assert steps[name] / sizes[name] == pytest.approx(2 * 1e-3 / float(base.abs().median()), rel=0.02)
