"""Every method under conf/method: it starts as the base, trains what it says, and is kept and put back."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RunFactory, descend, language_loss, logits, random_ids, recorded, tiny_model, trainable
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.commands.export import export
from gdo_cli.config.build import load_run
from gdo_cli.config.options import conf_dir
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.weights import load_trained, save_trained
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import layer_index
from gdo_cli.lm.device import hold_weights
from gdo_cli.methods.base import Method
from gdo_cli.methods.peft import PEFTAdapter
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError

# PEFT asks norms for their in_features, which it does not use.
pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")


def needs_a_value(file: Path) -> bool:
    """Such as another run: what such a method makes of it is tested with that method."""
    return "???" in file.read_text("utf-8")


METHODS = [file.stem for file in sorted((conf_dir() / "method").glob("*.yaml")) if not needs_a_value(file)]
LATER = {"zero_block": 1}  # the new block stands behind the chosen layer

every_method = pytest.mark.parametrize("name", METHODS)
families = pytest.mark.parametrize("family", ["gemma3", "llama"])


@cache
def method_of(name: str, *overrides: str) -> Method:
    return load_run(["model=tiny", "data=sample", f"method={name}", *overrides]).method


def chosen(method: Method) -> list[int] | None:
    """Two of the three layers, for a method that works on layers."""
    return [0, 2] if hasattr(method, "layers") else None


def prepared(method: Method, family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return method.prepare(tiny_model(family), chosen(method))


def tuned(method: Method, family: str) -> PreTrainedModel:
    model = prepared(method, family)
    if method.trains:
        train(model)
    return model


def train(model: PreTrainedModel) -> None:
    """Adam without decay: what receives no gradient stays where it is, bit for bit.

    Two steps: beside a matrix that starts at zero, the gradient is zero at the first.
    """
    descend(model, torch.optim.Adam(trainable(model).values(), lr=1e-2), steps=2)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter, tied ones once."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.few(27)
@every_method
@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_prepared_model_computes_what_the_base_computes(
    name: str, family: str, dtype: torch.dtype
) -> None:
    """Bit for bit where the method says so, else up to a rounding of each of the 7 products of a layer."""
    method, model = method_of(name), tiny_model(family)
    hold_weights(model, dtype)
    ids, places = random_ids(3, 11), torch.arange(33)
    with torch.no_grad():
        before = AnswerLM(model, dtype)(ids, places)
        model = method.prepare(model, None)
        hold_weights(model, dtype)
        worst = (AnswerLM(model, dtype)(ids, places) - before).abs().max()
    rounding = 0.0 if method.exact() else 7 * 3 * torch.finfo(dtype).eps / 2
    assert worst <= rounding * before.abs().max()


@pytest.mark.few(14)
@every_method
@families
def test_training_moves_each_trainable_parameter_and_nothing_else(name: str, family: str) -> None:
    model = prepared(method_of(name), family)
    before, expected = parameters(model), set(trainable(model))
    if expected:
        train(model)
    assert {n for n, p in parameters(model).items() if not torch.equal(p, before[n])} == expected
    assert bool(expected) == method_of(name).trains


@pytest.mark.few(14)
@every_method
@families
def test_a_choice_of_layers_is_all_that_trains_or_is_refused(name: str, family: str) -> None:
    if not hasattr(method_of(name), "layers"):
        with pytest.raises(UserError, match=rf"layers=\[1\]: method={name} takes no layers"):
            method_of(name, "layers=[1]")
        return
    model = method_of(name, "layers=[1]").prepare(tiny_model(family), [1])
    assert {layer_index(n) for n in trainable(model)} == {1 + LATER.get(name, 0)}


def kept(model: PreTrainedModel, method: Method, folder: Path) -> RunResult:
    """As much of a finished run as holds its weights."""
    save_trained(model, folder)
    layers = {"chosen": chosen(method) or "all"}
    return RunResult(folder, recorded({"seed": 0, "precision": "float32", "layers": layers}))


@pytest.mark.few(10)
@every_method
@families
def test_kept_weights_give_the_same_logits_on_a_fresh_base(name: str, family: str, tmp_path: Path) -> None:
    method, ids = method_of(name), random_ids(3, 11)
    model = tuned(method, family)
    loaded = load_trained(tiny_model(family), method, kept(model, method, tmp_path))
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    assert torch.equal(logits(model, ids), logits(tiny_model(family), ids)) != method.trains


@pytest.mark.few(8)
@pytest.mark.parametrize("name", [name for name in METHODS if method_of(name).trains])
@families
def test_training_goes_on_from_kept_weights_as_if_never_interrupted(
    name: str, family: str, tmp_path: Path
) -> None:
    """Bit for bit; the optimizer starts anew in both, for its state is not kept."""
    method = method_of(name)
    model = tuned(method, family)
    run = kept(model, method, tmp_path)
    if (adapter := tmp_path / "adapter").is_dir():
        again = PeftModel.from_pretrained(tiny_model(family), adapter, is_trainable=True)
    else:
        again = load_trained(tiny_model(family), method, run)
    train(model)
    train(again)
    one, other = parameters(model), parameters(again)
    assert set(trainable(model)) == set(trainable(again))
    assert one.keys() == other.keys()
    assert not [n for n in one if not torch.equal(one[n], other[n])]


# ----------------------------------------------------------------------- the tuners of PEFT alone


def adapter(peft_type: str, **options: Any) -> PEFTAdapter:
    return PEFTAdapter(name="Mine", peft_type=peft_type, options=options)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["dora", "oft", "ia3", "ln_tuning"])
def test_a_tuner_runs_in_bf16_and_leaves_as_a_plain_model(
    name: str, tiny_run: RunFactory, tmp_path: Path
) -> None:
    run = experiment.run(tiny_run(f"method={name}", "train.precision=bf16", "train.steps=2"))
    done = export(run, tmp_path / "out", None, "fp32", None)
    assert (done.form, done.exact) == ("plain", True)  # the command itself compares the logits
    assert done.difference <= 1e-4


@pytest.mark.parametrize("name", ["lora", "dora", "oft", "ia3", "ln_tuning"])
@pytest.mark.parametrize("layers", [None, [1]], ids=["all", "one"])
def test_a_tuner_leaves_a_vision_tower_alone(name: str, layers: list[int] | None) -> None:
    """It has layers of its own, with projections of the same names, that no text ever reaches."""
    model = method_of(name).prepare(tiny_model("gemma3_multimodal"), layers)
    language_loss(model, random_ids(2, 8)).backward()
    assert not [n for n, p in trainable(model).items() if "vision_tower" in n or p.grad is None]


@pytest.mark.parametrize("peft_type", ["LOHA", "ROAD", "VERA", "BEFT"])
def test_layers_can_be_chosen_for_tuners_that_know_no_layers(peft_type: str) -> None:
    options = {"group_size": 32} if peft_type == "ROAD" else {}
    method = adapter(peft_type, target_modules=["up_proj", "down_proj"], **options)
    assert {layer_index(n) for n in trainable(method.prepare(tiny_model("llama"), [1]))} == {1}


@pytest.mark.parametrize(
    ("peft_type", "options"),
    [("VERA", {}), ("VBLORA", {"num_vectors": 8, "vector_length": 16}), ("LOKR", {})],
)
def test_what_the_layers_of_a_tuner_share_is_kept_and_put_back(
    peft_type: str, options: dict[str, int], tmp_path: Path
) -> None:
    method, ids = adapter(peft_type, target_modules=["q_proj"], r=4, **options), random_ids(3, 11)
    model = tuned(method, "llama")
    loaded = load_trained(tiny_model("llama"), method, kept(model, method, tmp_path))
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    assert not torch.equal(logits(model, ids), logits(tiny_model("llama"), ids))


UP = ["up_proj"]
IMPOSSIBLE: list[tuple[PEFTAdapter, list[int] | None, str]] = [
    (adapter("LORRA"), None, "method.peft_type=LORRA: unknown; did you mean 'LORA'"),
    (adapter("LORA", rank=8), None, "method=Mine: .*'rank'"),
    (adapter("LORA", r="many", target_modules=UP), None, "method=Mine: "),
    (adapter("LORA", target_modules=["nope", 3]), [1], "method=Mine: .*nothing here is called nope or 3"),
    (adapter("LORA", target_modules="all-linear"), [1], r"layers=\[1\] needs a list of names"),
    (adapter("LORA", target_modules=UP, layers_to_transform=[0]), None, "write layers="),
    (adapter("IA3", target_modules=UP, feedforward_modules=["fc"]), [1], "should be a subset"),
    (adapter("LORA", target_modules=[*UP, "lm_head"]), None, "target_modules: lm_head is not in the text"),
    (adapter("LORA", target_modules=[*UP, "embed_tokens"]), None, "changes the embedding or the head"),
    (adapter("LORA", target_modules=".*(up_proj|lm_head)"), None, "changes the embedding or the head"),
    (adapter("LORA", target_modules=UP, modules_to_save=["lm_head"]), None, "the embedding or the head"),
    (adapter("LORA", target_modules=UP, trainable_token_indices=[1]), None, "the embedding or the head"),
    (adapter("TRAINABLE_TOKENS", token_indices=[1]), None, "changes the embedding or the head"),
    (adapter("PROMPT_TUNING", num_virtual_tokens=4), None, "PROMPT_TUNING learns a prompt"),
]


@pytest.mark.parametrize(("method", "layers", "reason"), IMPOSSIBLE, ids=lambda v: str(v)[-24:])
def test_a_tuner_that_cannot_work_is_refused_in_one_line(
    method: PEFTAdapter, layers: list[int] | None, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as error:
        method.prepare(tiny_model("gemma3"), layers)
    assert "\n" not in str(error.value)
