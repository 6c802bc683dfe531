"""Claims about compiled training: the same steps up to rounding, and nothing compiled outside of them."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import bits, random_queries, tiny_model

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.compiling import WORTH_STEPS, compiled
from gdo_cli.lm.scoring import score
from gdo_cli.methods.base import Method
from gdo_cli.methods.grow import GFreeze
from gdo_cli.methods.sft import SFT
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.loop import train

CONFIG = TrainConfig(lr=1e-3, steps=3, batch_size=3, precision="fp32", adam_epsilon=1e-3)
QUERIES = random_queries(6)
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
# What dynamo does with parameters while it traces; nobody sees it unless warnings are errors.
quiet = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def losses(lm: AnswerLM) -> list[float]:
    return [step.loss for step in train(lm, QUERIES, CONFIG, 0, 1)]


@pytest.mark.few(2)
@needs_compiler
@quiet
@pytest.mark.parametrize("method", [SFT(), GFreeze()], ids=lambda m: m.label)
@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_compiled_steps_are_the_plain_ones(family: str, method: Method) -> None:
    fast = AnswerLM(method.prepare(tiny_model(family), None), torch.float32)
    slow = copy.deepcopy(fast)
    with compiled(fast.model, "always", CONFIG.total_steps(6)):
        found = losses(fast)
    assert found == pytest.approx(losses(slow), abs=2e-6)
    twin = bits(slow)
    for name, tensor in bits(fast).items():
        # A thousandth of what a step may move a weight; the large ε keeps Adam from magnifying rounding.
        torch.testing.assert_close(tensor, twin[name], rtol=0, atol=1e-6, msg=name)


@needs_compiler
@quiet
def test_what_is_measured_is_never_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    lm = AnswerLM(model, torch.float32).eval()
    before = score(lm, QUERIES, 64)
    calls: list[int] = []

    def counting(slow: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def fast(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return slow(*args, **kwargs)

        return fast

    monkeypatch.setattr(torch, "compile", counting)
    with compiled(model, "always", 1):
        calls.clear()
        assert score(lm, QUERIES, 64) == before
        assert calls == []
        lm.train()(torch.tensor([[2, 9]]), torch.tensor([1]))
        assert calls
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("wanted", "steps", "compiler", "expected"),
    [
        ("auto", WORTH_STEPS, "/usr/bin/c++", True),
        ("auto", WORTH_STEPS - 1, "/usr/bin/c++", False),
        ("auto", WORTH_STEPS, None, False),
        ("never", 10**6, "/usr/bin/c++", False),
        ("always", 1, None, True),
    ],
)
def test_it_is_done_where_it_pays(
    wanted: str, steps: int, compiler: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: compiler)
    monkeypatch.setattr(torch, "compile", lambda slow, **_: slow)
    model = tiny_model("gemma3")
    with compiled(model, wanted, steps):
        assert any("forward" in vars(module) for module in model.modules()) is expected


def test_a_broken_compiler_costs_a_notice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such header")

    monkeypatch.setattr(torch, "compile", broken)
    model = tiny_model("gemma3")
    with compiled(model, "always", 1):
        assert not any("forward" in vars(module) for module in model.modules())
    assert "torch.compile does not work here (RuntimeError)" in capsys.readouterr().err


def test_a_part_that_does_not_compile_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(slow: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def fast(*args: Any) -> Any:
            if slow.__name__ == "double":
                return slow(*args)
            raise ValueError("graph break")

        return fast

    plain, stopped = (AnswerLM(tiny_model("llama").requires_grad_(True), torch.float32) for _ in range(2))
    expected = losses(plain)
    monkeypatch.setattr(torch, "compile", failing)
    with compiled(stopped.model, "always", 1):
        assert losses(stopped) == expected
    assert capsys.readouterr().err.count("does not compile (ValueError); going on without") == 1


@needs_compiler
@quiet
@pytest.mark.parametrize("method", [SFT(), GFreeze()], ids=lambda m: m.label)
def test_compiled_layers_can_be_computed_again(method: Method, capsys: pytest.CaptureFixture[str]) -> None:
    fast = AnswerLM(method.prepare(tiny_model("gemma3"), None), torch.float32)
    slow = copy.deepcopy(fast)
    with compiled(fast.model, "always", CONFIG.total_steps(6)):
        found = [s.loss for s in train(fast, QUERIES, replace(CONFIG, gradient_checkpointing=True), 0, 1)]
    assert found == pytest.approx(losses(slow), abs=2e-6)
    assert "does not compile" not in capsys.readouterr().err


def test_too_little_memory_is_not_the_compilers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(slow: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def fast(*args: Any) -> Any:
            if slow.__name__ == "double":
                return slow(*args)
            raise torch.OutOfMemoryError("CUDA out of memory")

        return fast

    lm = AnswerLM(tiny_model("llama").requires_grad_(True), torch.float32)
    monkeypatch.setattr(torch, "compile", failing)
    with compiled(lm.model, "always", 1), pytest.raises(torch.OutOfMemoryError):
        losses(lm)
