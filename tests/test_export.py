"""Taking a model away: exported checkpoints load and compute the same where gdo is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gdo_cli.cli import app
from gdo_cli.config import load_run
from gdo_cli.errors import RunFailed, UserError
from gdo_cli.experiment import run
from gdo_cli.export import Exported, export, model_card
from gdo_cli.growth import folding
from gdo_cli.results import RunResult

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
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
ids = AutoTokenizer.from_pretrained(sys.argv[1])("Water boils", return_tensors="pt")["input_ids"]
with torch.no_grad():
    logits = model(input_ids=ids).logits[0, -1]
assert "gdo_cli" not in sys.modules
print(model.config.intermediate_size, model.config.num_attention_heads, *logits[:4].tolist())
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
    (None, "plain", ["method=sft"], 128, 4),
    (None, "plain", ["method=lora"], 128, 4),
    (None, "plain", ["method=mlp_only"], 128, 4),
]


@pytest.mark.parametrize(("form", "chosen", "overrides", "width", "heads"), CASES)
def test_an_exported_model_computes_what_the_run_computes(
    form: str | None, chosen: str, overrides: list[str], width: int, heads: int, results: Path, tmp_path: Path
) -> None:
    done = exported(results, tmp_path, form, *overrides)
    assert (done.form, done.exact) == (chosen, True)
    assert done.difference <= 1e-4  # the command itself compares the reloaded model's logits
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(done.path)
    assert (config.intermediate_size, config.num_attention_heads) == (width, heads)


@pytest.mark.parametrize("method", ["g_train", "g_freeze"])
def test_an_exported_model_loads_where_gdo_is_not_imported(
    method: str, results: Path, tmp_path: Path
) -> None:
    done = exported(results, tmp_path, None, f"method={method}")
    out = subprocess.run(
        [sys.executable, "-c", FRESH, str(done.path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    width, heads, *logits = out.stdout.split()
    assert (width, heads) == ("128" if method == "g_train" else "256", "4")
    assert all(torch.isfinite(torch.tensor(float(value))) for value in logits)


def test_averaging_is_first_order_close_and_said_to_be_no_equality(results: Path, tmp_path: Path) -> None:
    done = exported(results, tmp_path, "averaged", "method=g_freeze")
    assert not done.exact
    assert 0 < done.difference < 0.2  # three steps from the base: near, not equal


@pytest.mark.parametrize(
    ("form", "method", "reason"),
    [
        ("folded", "g_freeze", "only G-Train folds"),
        ("averaged", "g_train", "no average"),
        ("averaged", "zero_init", "no average"),
        ("grown", "sft", "nothing has grown"),
        ("wide", "g_freeze", "choose from: averaged, folded, grown"),
    ],
)
def test_forms_that_a_run_does_not_have_are_refused(
    form: str, method: str, reason: str, results: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        exported(results, tmp_path, form, f"method={method}")
    assert not list(tmp_path.iterdir())


def test_copies_that_differ_do_not_fold() -> None:
    with pytest.raises(ValueError, match="copies differ"):
        folding._one_of_equal(torch.arange(4.0), 2, "layer")


def test_a_checkpoint_that_computes_something_else_is_not_left_behind(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = trained(results, "method=g_train")
    monkeypatch.setattr("gdo_cli.export._difference", lambda before, after: 1.0)
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
