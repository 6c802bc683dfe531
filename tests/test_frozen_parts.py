"""``method.norms`` and ``method.embeddings``: what full fine-tuning leaves where it was."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import VOCABULARY, RunFactory, descend, perturb, tiny_model, trainable
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from gdo_cli.config.build import load_run
from gdo_cli.experiment import run as experiment
from gdo_cli.lm.decoder import norm_parameters
from gdo_cli.methods.base import Method
from gdo_cli.methods.sft import SFT
from gdo_cli.support.errors import UserError

INHERIT = ("sft", "l2_sp", "kl_to_base", "replay")

# Told by name, family by family, where the package goes by the modules' types.
NORMS = {
    "gemma3": r"(layernorm|[qk]_norm|\bnorm)\.weight$",
    "llama": r"(layernorm|\bnorm)\.weight$",
    "phi": r"layernorm\.(weight|bias)$",
    "opt": r"layer_norm\.(weight|bias)$",
    "gpt2": r"\bln_(1|2|f)\.(weight|bias)$",
}
# Of a tied model the head is the table of tokens, which is named once.
EMBEDDINGS = {
    "gemma3": {"model.embed_tokens.weight"},
    "llama": {"model.embed_tokens.weight", "lm_head.weight"},
    "phi": {"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"},
    "opt": {"model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"},
    "gpt2": {"transformer.wte.weight", "transformer.wpe.weight"},
}
every_family = pytest.mark.parametrize("family", NORMS)


def model_of(family: str) -> PreTrainedModel:
    if family != "gpt2":
        return tiny_model(family)
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=2, eos_token_id=1)).eval()
    perturb(model, 0.05)
    return model


def moved(method: Method, family: str) -> tuple[set[str], set[str]]:
    """Names of all parameters, and of those that two steps of Adam have moved."""
    model = method.prepare(model_of(family), None)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    descend(model, torch.optim.Adam(trainable(model).values(), lr=1e-2), steps=2)
    return set(before), {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def norms(names: set[str], family: str) -> set[str]:
    found = {name for name in names if re.search(NORMS[family], name)}
    assert len(found) > 2
    return found


@every_family
def test_frozen_norms_stay_and_all_else_moves(family: str) -> None:
    every, changed = moved(SFT(norms="frozen"), family)
    assert every - changed == norms(every, family)


@every_family
def test_frozen_embeddings_stay_with_the_head_and_all_else_moves(family: str) -> None:
    every, changed = moved(SFT(embeddings="frozen"), family)
    assert every - changed == EMBEDDINGS[family]


@every_family
def test_both_may_be_frozen_and_by_default_neither_is(family: str) -> None:
    every, changed = moved(SFT(norms="frozen", embeddings="frozen"), family)
    assert every - changed == norms(every, family) | EMBEDDINGS[family]
    every, changed = moved(SFT(), family)
    assert every == changed


@every_family
def test_every_norm_is_told_by_the_type_of_its_module(family: str) -> None:
    model = model_of(family)
    names = dict(model.named_parameters())
    found = {id(p) for p in norm_parameters(model)}
    assert {name for name, p in names.items() if id(p) in found} == norms(set(names), family)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", INHERIT)
@pytest.mark.parametrize("part", ["norms", "embeddings"])
def test_all_that_train_the_whole_model_take_both_options(name: str, part: str) -> None:
    method = load_run(["model=tiny", "data=sample", f"method={name}", f"method.{part}=frozen"]).method
    every, changed = moved(method, "gemma3")
    assert every - changed == (norms(every, "gemma3") if part == "norms" else EMBEDDINGS["gemma3"])
    with pytest.raises(UserError, match=f"method.{part}=off: unknown; choose from: frozen, trained"):
        load_run(["model=tiny", "data=sample", f"method={name}", f"method.{part}=off"])


@pytest.mark.few(3)
@pytest.mark.parametrize("part", ["norms", "embeddings"])
@pytest.mark.parametrize("name", ["g_freeze", "mlp_only", "lora", "ln_tuning", "frozen", "zero_block"])
def test_a_method_without_the_choice_refuses_it_and_names_those_that_have_it(name: str, part: str) -> None:
    others = "kl_to_base, l2_sp, replay, replay_own, replay_self, sft"
    reason = rf"^method\.{part}: no such key with this method; {others} would take it"
    with pytest.raises(UserError, match=reason):
        load_run(["model=tiny", "data=sample", f"method={name}", f"method.{part}=frozen"])


def test_the_default_is_the_run_that_it_was_and_frozen_parts_make_another() -> None:
    words = ["model=tiny", "data=sample", "method=sft"]
    plain = load_run(words)
    given = load_run([*words, "method.norms=trained", "method.embeddings=trained"])
    others = [load_run([*words, f"method.{part}=frozen"]) for part in ("norms", "embeddings")]
    assert plain.id == given.id
    assert len({plain.id, *(run.id for run in others)}) == 3


def test_the_norms_alone_are_all_that_ln_tuning_trains() -> None:
    """The other half of ``norms=frozen``: what one trains, the other leaves."""
    model = tiny_model("gemma3")
    expected = sum(p.numel() for p in norm_parameters(model))
    tuned = load_run(["model=tiny", "data=sample", "method=ln_tuning"]).method.prepare(model, None)
    left = SFT(norms="frozen").prepare(tiny_model("gemma3"), None)
    assert sum(p.numel() for p in trainable(tuned).values()) == expected
    assert sum(p.numel() for p in left.parameters() if not p.requires_grad) == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_keeps_and_counts_what_it_trained_alone(tiny_run: RunFactory, precision: str) -> None:
    """The run itself compares the logits before its first step with the base's, bit for bit."""
    frozen = ["method.norms=frozen", "method.embeddings=frozen"]
    run = experiment.run(tiny_run("method=sft", *frozen, f"train.precision={precision}"))
    parameters = run.record.parameters
    assert not {"norm", "embedding"} & set(parameters.trainable_by_module)
    kept = load_file(run.path / "trained" / "parameters.safetensors")
    assert sum(tensor.numel() for tensor in kept.values()) == parameters.trainable > 0
    assert not [name for name in kept if "norm" in name or "embed" in name]
