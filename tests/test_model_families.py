"""Plain fine-tuning runs on every causal language model; what a method cannot do with one is said at once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RunFactory, logits, random_ids, tiny_model
from families import FAMILIES, by_family, of_family
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from test_guards import RATES, folder_of, run_words, with_text
from transformers import PreTrainedModel

from gdo_cli.commands.export import export
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import Opened
from gdo_cli.growth import GrowConfig
from gdo_cli.lm.decoder import find_decoder, layer_index, text_decoder
from gdo_cli.methods import peft
from gdo_cli.methods.grow import GFreeze
from gdo_cli.methods.peft import PEFTAdapter
from gdo_cli.methods.sft import SFT
from gdo_cli.models.hub import HubModel
from gdo_cli.models.loading import Loaded
from gdo_cli.support.errors import UserError

IDS = random_ids(2, 12)

# ------------------------------------------------------------------------------------ E1: adapters


def test_an_adapter_is_refused_with_the_mend(tiny_loaded: Loaded, tmp_path: Path) -> None:
    base = folder_of(tiny_loaded.model, tiny_loaded, tmp_path / "base")
    adapted = get_peft_model(of_family("granite"), LoraConfig(target_modules=["q_proj"]))
    folder = folder_of(adapted, tiny_loaded, tmp_path / "adapter")
    assert (folder / "adapter_config.json").is_file()
    for extra in ([], ["config.json", "model.safetensors"]):  # alone, and beside a model of its own
        for name in extra:
            (folder / name).write_bytes((base / name).read_bytes())
        with pytest.raises(UserError, match=r"an adapter, .*; merge it: .*merge_and_unload"):
            HubModel(path=str(folder), **RATES).load()


def test_another_configuration_is_another_base(
    tiny_loaded: Loaded, tmp_path: Path, tiny_run: RunFactory
) -> None:
    """The same weights with other positions are not the same model: nothing kept of one serves the other."""
    path = with_text("granite", tiny_loaded, tmp_path / "model")
    words = ("model=custom", f"model.path={path}")
    before = Opened(tiny_run(*words)).facts
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(content | {"logits_scaling": 2.0}))
    assert Opened(tiny_run(*words)).facts != before


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_run_is_not_put_onto_another_base(
    file: str, tiny_loaded: Loaded, tmp_path: Path, tiny_run: RunFactory
) -> None:
    path = with_text("granite", tiny_loaded, tmp_path / "model")
    config = tiny_run(
        "model=custom", f"model.path={path}", "method=g_freeze", "train.steps=1", "save_weights=true"
    )
    run = experiment.run(config)
    assert Opened(config, run).loaded
    if file == "config.json":
        (path / file).write_text(
            (path / file).read_text().replace('"logits_scaling": 6.0', '"logits_scaling": 5.0')
        )
    else:
        with_text("granite", tiny_loaded, path, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"than the run was made from \(checksum"):
        Opened(config, run).loaded  # noqa: B018


# --------------------------------------------------------------------------------------- E2: fused

FUSED = {
    "phi3_attention": (["qkv_proj", "o_proj"], ["o_proj"]),
    "bloom": (["query_key_value", "self_attention.dense"], ["self_attention.dense"]),
    "falcon": (["query_key_value", "self_attention.dense"], ["self_attention.dense"]),
    "gpt_neox": (["query_key_value", "attention.dense"], ["attention.dense"]),
    "codegen": (["qkv_proj", "out_proj"], ["out_proj"]),
    "mpt": (["Wqkv", "attn.out_proj"], ["attn.out_proj"]),
    "gpt_bigcode": (["c_attn", "attn.c_proj"], ["attn.c_proj"]),
}
SEPARATE = {
    "phi3": (["gate_up_proj", "down_proj"], ["down_proj"]),  # in one, and told apart by their halves
    "glm": (["gate_up_proj", "down_proj"], ["down_proj"]),
    "moshi": (["fc1", "fc2"], ["fc2"]),
    "starcoder2": (["c_fc", "c_proj"], ["c_proj"]),
    "bloom": (["dense_h_to_4h", "dense_4h_to_h"], ["dense_4h_to_h"]),
    "gptj": (["fc_in", "fc_out"], ["fc_out"]),
    "codegen": (["fc_in", "fc_out"], ["fc_out"]),
    "phi": (["fc1", "fc2"], ["fc2"]),
    "gpt_neox": (["dense_h_to_4h", "dense_4h_to_h"], ["dense_4h_to_h"]),
    "mpt": (["ffn.up_proj", "ffn.down_proj"], ["ffn.down_proj"]),
    "granite": (["q_proj", "k_proj", "v_proj", "o_proj"], ["o_proj"]),
    "xglm": (["fc1", "fc2"], ["fc2"]),
    "nemotron": (["up_proj", "down_proj"], ["down_proj"]),
}


@pytest.mark.parametrize("name", FUSED)
def test_projections_that_lie_in_one_are_not_grown_as_one(name: str) -> None:
    targets, rows = FUSED[name]
    with pytest.raises(
        ValueError, match=r"holds several projections|not found|gives \d+ numbers|cannot grow|only nn\.Linear"
    ):
        get_peft_model(
            of_family(name.partition("_attention")[0]), GrowConfig(target_modules=targets, row_modules=rows)
        )


@pytest.mark.parametrize("name", SEPARATE)
def test_projections_that_stand_apart_are(name: str) -> None:
    model = of_family(name)
    before = logits(model, IDS)
    targets, rows = SEPARATE[name]
    grown = get_peft_model(model, GrowConfig(target_modules=targets, row_modules=rows))
    if name != "granite":  # heads of all layers need more than their projections to be looked at
        torch.testing.assert_close(logits(grown, IDS), before, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------- E3: part of the names


@settings(max_examples=30, deadline=None)
@given(
    there=st.sets(
        st.sampled_from(["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]), min_size=1
    ),
    absent=st.sets(st.from_regex(r"[a-z]{2,6}_(mat|fc)", fullmatch=True), max_size=4),
)
def test_names_that_a_model_has_not_are_told(there: set[str], absent: set[str]) -> None:
    said: list[str] = []
    options = {"r": 2, "target_modules": sorted(absent) + sorted(there)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peft, "warn", said.append)
        PEFTAdapter(options=options).prepare(tiny_model("llama"), [1])
    wanted = (
        [f"nothing here is called {', '.join(sorted(absent))}, so only the others are adapted"]
        if absent
        else []
    )
    assert [one.partition("target_modules: ")[2] for one in said] == wanted


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("phi3", "q_proj, k_proj, v_proj, gate_proj, up_proj"),
        ("phi", "o_proj, gate_proj, up_proj, down_proj"),
        ("mixtral", "gate_proj, up_proj, down_proj"),
        ("starcoder2", "gate_proj, up_proj, down_proj"),
        ("nemotron", "gate_proj"),
    ],
)
def test_lora_on_all_linear_layers_says_which_it_does_not_find(
    family: str,
    told: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tiny_run: RunFactory,
) -> None:
    monkeypatch.setattr(logging.getLogger("gdo"), "propagate", True)
    tiny_run("method=lora").method.prepare(of_family(family), None)
    assert f"nothing here is called {told}, so" in caplog.text


# -------------------------------------------------------------------------------- E4: layers elsewhere

PLACES = {
    "bloom": "transformer.h",
    "ctrl": "transformer.h",
    "falcon": "transformer.h",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "granite": "model.layers",
    "llama4_text": "model.layers",
    "mamba": "backbone.layers",
    "modernbert-decoder": "model.layers",
    "mpt": "transformer.blocks",
    "openai-gpt": "transformer.h",
    "rwkv": "rwkv.blocks",
    "xlnet": "transformer.layer",
}


@pytest.mark.parametrize("name", PLACES)
def test_layers_are_found_wherever_a_family_keeps_them(name: str) -> None:
    model = of_family(name)
    decoder = find_decoder(model)
    assert (decoder.name, len(decoder)) == (PLACES[name], 2)
    inside = {layer_index(key) for key, _ in model.named_parameters()}
    assert inside == {None, 0, 1}


@by_family([*FAMILIES, "modernbert-decoder"])
def test_the_decoder_gives_hidden_states(name: str) -> None:
    model = of_family(name)
    width = model.get_output_embeddings().weight.shape[1]
    hidden = text_decoder(model)(input_ids=IDS, use_cache=False)[0]
    assert hidden.shape == (*IDS.shape, width)


@by_family(FAMILIES)
def test_plain_fine_tuning_trains_all_that_speaks(name: str) -> None:
    model = SFT().prepare(of_family(name), None)
    frozen = [key for key, p in model.named_parameters() if not p.requires_grad]
    assert frozen == []


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name", ["gpt2", "bloom", "mpt", "rwkv", "llama4_text", "mixtral", "deepseek_v3", "granite"]
)
def test_a_run_of_plain_fine_tuning_ends_with_a_score(
    name: str, tiny_loaded: Loaded, tmp_path: Path, tiny_run: RunFactory
) -> None:
    path = with_text(name, tiny_loaded, tmp_path / "model")
    short = ["train.max_length=128", "train.steps=1", "train.batch_size=2", "probe.winogrande.shots=0"]
    run = experiment.run(tiny_run("model=custom", f"model.path={path}", "method=sft", *short))
    assert "task/exact_match" in run.final
    assert run.record.updates or name in ("gpt2",)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("gpt2", method) for method in ("g_freeze", "g_train", "mlp_only")),
        *((name, method) for name in ("mixtral", "gpt_oss") for method in ("g_freeze", "g_train")),
    ],
)
def test_weights_held_otherwise_are_trained_and_exported(
    name: str, method: str, tiny_loaded: Loaded, tmp_path: Path, tiny_run: RunFactory
) -> None:
    path = with_text(name, tiny_loaded, tmp_path / "model")
    short = ["train.max_length=128", "train.steps=2", "train.batch_size=2", "probe.winogrande.shots=0"]
    run = experiment.run(
        tiny_run("model=custom", f"model.path={path}", f"method={method}", "save_weights=true", *short)
    )
    export(run, tmp_path / "out", None, "fp32", None)
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["bloom", "llama4_text", "mamba", "rwkv", "bitnet"])
def test_growth_of_what_cannot_grow_is_one_line(
    name: str, tiny_loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_text(name, tiny_loaded, tmp_path / "model")
    code, said = run_words(["train", "model=custom", f"model.path={path}", "data=sample", "method=g_freeze"])
    assert code == 2
    assert said[-1].startswith("error: method=g_freeze: ")
    assert "target_modules" not in said[-1]
    assert not (tmp_path / "results").exists()


@by_family(FAMILIES)
def test_growth_keeps_the_function_or_is_refused(name: str) -> None:
    model: PreTrainedModel = of_family(name)
    before = logits(model, IDS)
    try:
        grown = GFreeze().prepare(model, None)
    except ValueError:
        return
    if name == "bitnet":  # a norm between the two projections: one forward pass tells
        with pytest.raises(RuntimeError):
            logits(grown, IDS)
    else:
        torch.testing.assert_close(logits(grown, IDS), before, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------- E5: quantisers and tuners


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "hqq", "quanto", "eetq", "nonesuch"])
def test_weights_of_a_quantiser_are_refused_in_a_line(
    method: str, tiny_loaded: Loaded, tmp_path: Path
) -> None:
    path = with_text("granite", tiny_loaded, tmp_path / "model")
    content = json.loads((path / "config.json").read_text())
    content["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        HubModel(path=str(path), **RATES).load()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("tuner", "options", "reason"),
    [
        ("ADALORA", {"total_step": 10}, "moves its ranks after each step"),
        ("POLY", {}, "the number of a task with each row"),
        ("PROMPT_TUNING", {"num_virtual_tokens": 4}, "learns a prompt"),
        ("LORA", {"layers_to_transform": [0]}, "write layers="),
        ("LORA", {"target_modules": ["nothing", "such"]}, "nothing here is called nothing or such"),
        ("LORA", {"target_modules": ["lm_head"]}, "not in the text decoder"),
        ("MISS", {"r": 4096}, "must be less than"),
        ("VBLORA", {"vector_length": 7}, "must be divisible"),
        ("CPT", {"r": 3}, "unexpected keyword"),
        ("IA3", {"nosuch": 1}, "unexpected keyword"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tuners_that_gdo_cannot_train_are_refused(
    tuner: str, options: dict[str, Any], reason: str, device: str
) -> None:
    targets: dict[str, Any] = (
        {} if "PROMPT" in tuner or tuner == "CPT" else {"target_modules": ["q_proj", "v_proj"]}
    )
    method = PEFTAdapter(name="Mine", peft_type=tuner, options=targets | options)
    with pytest.raises(UserError, match=rf"method=Mine: its options do not work: .*{reason}"):
        method.prepare(tiny_model("llama").to(device), None)
