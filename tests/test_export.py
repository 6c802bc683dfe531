"""Taking a model away: exported checkpoints load and compute the same where gdo is not installed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import perturb, tiny_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands import export as exporting
from gdo_cli.commands.export import _FORM, Exported, cost, export, in_fp32, model_card
from gdo_cli.config.build import load_run, rebuild
from gdo_cli.experiment.run import run
from gdo_cli.experiment.weights import load_trained
from gdo_cli.growth import folding
from gdo_cli.models.loading import Loaded
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import RunFailed, UserError

SHORT = (
    "model=tiny",
    "data=sample",
    "train.steps=3",
    "train.precision=fp32",
    "evaluation.every=3",
    "evaluation.items=6",
    "evaluation.final_items=6",
    "evaluation.kl_prompts=0",
    "probe=[]",
)

# Run without this package on the path: the checkpoint must stand on its own.
FRESH = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
prompt, *checkpoints = sys.argv[1:]
for path in checkpoints:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(path)(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1].tolist()
        text = model.generate(ids, max_new_tokens=12, do_sample=False)[0].tolist()
    print(json.dumps({"ids": ids.tolist(), "logits": logits, "text": text}))
assert "gdo_cli" not in sys.modules
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def trained(results: Path, *overrides: str) -> RunResult:
    return run(load_run([*SHORT, *overrides, f"results_dir={results}"]))


def exported(results: Path, tmp_path: Path, form: str | None, *overrides: str) -> Exported:
    return export(trained(results, *overrides), tmp_path / "out", form, "fp32", None)


CASES = [
    ("folded", "folded", ["method=g_train"], 128, 4),
    (None, "folded", ["method=g_train"], 128, 4),
    ("grown", "grown", ["method=g_train"], 256, 4),
    ("grown", "grown", ["method=g_freeze"], 256, 4),
    (None, "grown", ["method=g_freeze", "layers=[1,3]"], 256, 4),
    ("grown", "grown", ["method=g_freeze", "method.k=3", "layers=[0]"], 384, 4),
    ("grown", "grown", ["method=attention_grow", "layers=[2]"], 128, 8),
    ("grown", "grown", ["method=attention_grow", "method.with_mlp=true"], 256, 8),
    (None, "grown", ["method=attention_grow", "method.grow=head_dim"], 128, 4),
    ("grown", "grown", ["method=attention_grow", "method.grow=head_dim", "layers=[1]"], 128, 4),
    (None, "grown", ["method=attention_grow", "method.grow=head_dim", "method.with_mlp=true"], 256, 4),
    (None, "grown", ["method=zero_init", "method.train=all"], 256, 4),
    (None, "plain", ["method=zero_block"], 128, 4),
    (None, "plain", ["method=sft"], 128, 4),
    (None, "plain", ["method=lora"], 128, 4),
    (None, "plain", ["method=mlp_only"], 128, 4),
]


@pytest.mark.few(4)
@pytest.mark.parametrize(("form", "chosen", "overrides", "width", "heads"), CASES)
def test_an_exported_model_computes_what_the_run_computes(
    form: str | None, chosen: str, overrides: list[str], width: int, heads: int, results: Path, tmp_path: Path
) -> None:
    done = exported(results, tmp_path, form, *overrides)
    assert (done.form, done.exact) == (chosen, True)
    assert done.difference <= 1e-4  # the command itself compares the reloaded model's logits
    config = AutoConfig.from_pretrained(done.path)
    assert (config.intermediate_size, config.num_attention_heads) == (width, heads)
    (tmp_path / "by mkdir").mkdir()
    assert done.path.stat().st_mode == (tmp_path / "by mkdir").stat().st_mode


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory, tiny_loaded: Loaded) -> Path:
    """Folders of models with what the bundled one lacks: a scaled kind of rotary positions, sliding and
    full attention in turn with a window shorter than the prompts, a width whose square root is not a
    bf16 number (gemma3); biases (llama)."""
    root = tmp_path_factory.mktemp("models")
    for family in ("gemma3", "llama"):
        config = copy.deepcopy(tiny_model(family).config)
        config.vocab_size, config.max_position_embeddings = len(tiny_loaded.tokenizer), 1024
        parameters: Any = config.rope_parameters
        parameters.get("full_attention", parameters).update(rope_type="linear", factor=8.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: Any = AutoModelForCausalLM.from_config(config)
        perturb(model, 0.05)
        model.save_pretrained(root / family)
        tiny_loaded.tokenizer.save_pretrained(root / family)
    return root


STRUCTURES = [
    ["method=g_freeze"],
    ["method=attention_grow", "method.grow=head_dim"],
    ["method=attention_grow", "method.grow=head_dim", "method.with_mlp=true", "layers=[1]"],
    ["method=zero_block", "layers=[1]"],
]


@pytest.mark.slow
def test_where_gdo_is_not_imported_a_checkpoint_computes_and_generates_what_the_run_does(
    families: Path, results: Path, tmp_path: Path
) -> None:
    """Every structure of both families, in one process: what it takes is the start."""
    custom = [
        ["model=custom", f"model.path={families / name}", "train.lr=1e-3"] for name in ("gemma3", "llama")
    ]
    runs = [trained(results, *model, *structure) for model in custom for structure in STRUCTURES]
    paths = [export(r, tmp_path / str(i), None, "fp32", None).path for i, r in enumerate(runs)]
    answers = in_a_fresh_process(paths, "Water boils at one hundred degrees. Ice is frozen water.")
    for finished, fresh in zip(runs, answers, strict=True):
        model, ids = model_of(finished), torch.tensor(fresh["ids"])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1]
        torch.testing.assert_close(torch.tensor(fresh["logits"]), logits, rtol=1e-4, atol=1e-4)
        for cached in (True, False):
            text = model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=cached)[0]
            assert text.tolist() == fresh["text"], finished.title


def in_a_fresh_process(checkpoints: list[Path], prompt: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", FRESH, prompt, *map(str, checkpoints)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=checkpoints[0].parent, check=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


def model_of(finished: RunResult) -> Any:
    config = rebuild(finished, None)
    return in_fp32(load_trained(config.model.load().model, config.method, finished))


def test_added_blocks_are_of_the_type_of_the_layer_before_them(
    families: Path, results: Path, tmp_path: Path
) -> None:
    custom = ["model=custom", f"model.path={families / 'gemma3'}", "train.lr=1e-3"]
    done = exported(results, tmp_path, None, *custom, "method=zero_block", "layers=[1]")
    config = AutoConfig.from_pretrained(done.path)
    sliding, full = "sliding_attention", "full_attention"
    assert config.layer_types == [sliding, full, full, sliding]
    assert (config.num_hidden_layers, config.sliding_window) == (4, 6)


def test_a_run_with_wider_heads_and_mlp_keeps_the_weights_of_both(results: Path, tmp_path: Path) -> None:
    """PEFT's adapter would hold the MLP's alone."""
    finished = trained(results, "method=attention_grow", "method.grow=head_dim", "method.with_mlp=true")
    assert finished.weights is not None
    (file,) = finished.weights.glob("*.safetensors")
    kept = {name.rpartition("_proj.")[2].partition(".")[0] for name in load_file(file)}
    assert kept == {"grow", "wider_weight"}
    done = export(finished, tmp_path / "out", None, "fp32", None)
    measured = cost(finished, done.path, None)["task/loss"]
    assert measured == pytest.approx(finished.final["task/loss"], abs=0.01)  # it is loaded in bf16


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_wider_heads_in_bf16_are_within_its_tolerance(
    family: str, families: Path, results: Path, tmp_path: Path
) -> None:
    """Llama's scale puts a factor of sqrt(1/2), which rounds, into the queries."""
    custom = ["model=custom", f"model.path={families / family}", "train.lr=1e-3"]
    finished = trained(results, *custom, *STRUCTURES[1])
    assert export(finished, tmp_path / "out", None, "bf16", None).difference <= 0.05


def test_averaging_is_first_order_close_and_said_to_be_no_equality(results: Path, tmp_path: Path) -> None:
    done = exported(results, tmp_path, "averaged", "method=g_freeze")
    assert not done.exact
    assert 0 < done.difference < 0.2  # three steps from the base: near, not equal


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("form", "method", "reason"),
    [
        ("folded", "g_freeze", "only G-Train folds"),
        ("averaged", "g_train", "no average"),
        ("averaged", "zero_init", "no average"),
        ("grown", "sft", "nothing has grown"),
        ("plain", "zero_block", "nothing has grown"),
        ("wide", "g_freeze", "choose from: averaged, folded, grown"),
    ],
)
def test_forms_that_a_run_does_not_have_are_refused(
    form: str, method: str, reason: str, results: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        exported(results, tmp_path, form, f"method={method}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["folded", "averaged"])
def test_wider_heads_are_exported_as_wide_as_they_are(form: str, results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use the form grown"):
        exported(results, tmp_path, form, "method=attention_grow", "method.grow=head_dim")
    assert not list(tmp_path.iterdir())


def test_more_heads_than_the_architecture_allows_are_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a multiple of the number of attention heads"):
        exported(results, tmp_path, None, "method=attention_grow", "method.k=3")


def test_a_checkpoint_that_does_not_load_is_not_left_behind(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_wrongly(model: Any) -> Any:
        model.config.intermediate_size *= 2
        return model

    finished = trained(results, "method=sft")
    monkeypatch.setitem(_FORM, "plain", told_wrongly)
    with pytest.raises(RunFailed, match="does not load"):
        export(finished, tmp_path / "out", None, "fp32", None)
    assert not list(tmp_path.iterdir())


def test_copies_that_differ_by_more_than_rounding_do_not_fold() -> None:
    with pytest.raises(ValueError, match="copies differ by up to 2"):
        folding._one_of_equal(list(torch.arange(4.0).split(2)), "layer")
    with pytest.raises(ValueError, match="copies differ by up to 1e-05"):
        folding._one_of_equal(list(torch.tensor([0.5, 1.0, 0.5 + 1e-5, 1.0]).split(2)), "layer")
    weight = torch.tensor([0.5, 1.0, 0.5 + 6e-8, 1.0])  # the next number in fp32
    first = folding._one_of_equal(list(weight.split(2)), "layer")
    assert first is not None
    assert first.tolist() == [0.5, 1.0]


def test_a_checkpoint_that_computes_something_else_is_not_left_behind(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = trained(results, "method=g_train")
    monkeypatch.setattr(exporting, "_difference", lambda before, after: 1.0)
    with pytest.raises(RunFailed, match="differs"):
        export(finished, tmp_path / "out", None, "fp32", None)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_not_written_into(results: Path, tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        export(trained(results, "method=g_train"), tmp_path, None, "fp32", None)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


def test_the_model_card_holds_the_numbers_of_the_run(results: Path) -> None:
    finished = trained(results, "method=g_train")
    card = model_card(finished, "folded")
    assert f"{finished.final['task/loss']:.3f}" in card
    assert finished.title in card
    assert "results_dir" not in card


def front(card: str) -> dict[str, Any]:
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_the_card_names_base_and_data_where_the_hub_has_them(results: Path) -> None:
    finished = trained(results, "method=g_train")
    of_a_sample = front(model_card(finished, "folded"))
    assert "base_model" not in of_a_sample
    assert "datasets" not in of_a_sample
    assert of_a_sample["metrics"] == [finished.task_score.removeprefix("task/")]
    assert of_a_sample["tags"] == ["gdo", "g_train", finished.name["task"]]
    config = finished.record.config | {"task": {"dataset": {"hub": {"path": "someone/rows"}}}}
    weights = {"source": "hub", "path": "someone/base"}
    of_the_hub = replace(finished.record, config=config, weights=weights, data={"source": "hub"})
    named = front(model_card(replace(finished, record=of_the_hub), "folded"))
    assert named["base_model"] == "someone/base"
    assert named["datasets"] == ["someone/rows"]


def test_a_refused_upload_is_one_message_and_the_folder_stays(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    def refuse(*_: object, **__: object) -> None:
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    finished, out = trained(results, "method=g_train"), tmp_path / "out"
    words = ["export", finished.title, str(out), "--push", "me/mine", "--results", str(results)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 2
    assert "--push me/mine: not uploaded" in shown.stderr
    assert "hf auth login" in shown.stderr
    assert (out / "model.safetensors").is_file()


def test_the_command_prints_the_difference_and_what_averaging_costs(results: Path, tmp_path: Path) -> None:
    finished = trained(results, "method=g_freeze")
    words = ["export", finished.title, str(tmp_path / "out"), "--form", "averaged", "--results", str(results)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "an approximation" in shown.output
    assert "task/loss" in shown.output


def test_generation_shows_base_and_tuned_side_by_side(results: Path) -> None:
    finished = trained(results, "method=g_train")
    words = ["generate", finished.title, "Water boils", "--max-new-tokens", "3", "--results", str(results)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.output for word in ("prompt", "base", "tuned"))


def test_generation_without_a_prompt_is_refused(results: Path) -> None:
    shown = CliRunner().invoke(app, ["generate", "model=tiny", "--results", str(results)], input="\n")
    assert shown.exit_code == 2
    assert "no prompt" in shown.output
