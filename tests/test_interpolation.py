"""Between the base and a finished run (WiSE-FT), and the untouched model shown solved examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import recorded
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.evaluate import evaluation_config
from gdo_cli.commands.export import cost, export
from gdo_cli.config.build import load_run, rebuild
from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.rows import SAMPLE_DIR
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import Opened, build_evaluator, measure, read_run_data
from gdo_cli.experiment.weights import load_trained, prepare
from gdo_cli.lm.tokens import Encoder
from gdo_cli.methods.interpolation import Averaged, WiSEFT
from gdo_cli.models.loading import Loaded
from gdo_cli.models.tiny import TinyModel
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity
from gdo_cli.tasks.scitail import SciTail

METHODS = ("sft", "mlp_only", "g_freeze", "lora")
SHORT = (
    "model=tiny",
    "data=sample",
    "train.precision=fp32",
    "train.steps=2",
    "train.batch_size=4",
    "evaluation.every=2",
    "evaluation.items=4",
    "evaluation.final_items=6",
    "evaluation.kl_prompts=2",
    "probe=[]",
)


@dataclass(frozen=True)
class Place:
    """A results folder whose name needs quoting everywhere, and what has been run in it."""

    results: Path

    def config(self, *words: str) -> RunConfig:
        return load_run([*SHORT, f'results_dir="{self.results}"', *words])

    @cache  # noqa: B019 - the module's runs
    def run(self, *words: str) -> RunResult:
        return experiment.run(self.config(*words))

    def source(self, method: str, *words: str) -> RunResult:
        """A run of another seed than the interpolations below, and far from its start."""
        return self.run(f"method={method}", "seed=1", "train.lr=1e-2", *words)

    def wise(self, run: RunResult, alpha: float, *words: str) -> RunResult:
        return self.run("method=wise_ft", f"method.run={run.title}", f"method.alpha={alpha}", *words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_loaded: Loaded) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:  # its tokenizer takes longer than these runs
        patch.setattr(TinyModel, "load", lambda _: replace(tiny_loaded, model=deepcopy(tiny_loaded.model)))
        yield Place(tmp_path_factory.mktemp("runs") / "it's all here" / "results")


def kept(run: RunResult) -> dict[str, Tensor]:
    """The trained weights as they stand on disk."""
    assert run.weights is not None
    (file,) = run.weights.glob("*.safetensors")
    return load_file(file)


def by_name(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters by the names that PEFT saves them under."""
    return {name.replace(".default", ""): p.detach() for name, p in model.named_parameters()}


def between(run: RunResult, place: Place, alpha: float) -> dict[str, Tensor]:
    model = place.config().model.load().model
    return by_name(prepare(WiSEFT(run.title, str(place.results), alpha), model, None))


# -------------------------------------------------------------------------------------- the weights


@pytest.mark.few(1)
@pytest.mark.parametrize("method", METHODS)
def test_halfway_is_the_mean_of_where_training_began_and_where_it_ended(place: Place, method: str) -> None:
    """Where it began is read off a run of the same seed whose rate moves nothing."""
    run = place.source(method)
    began, ended = kept(place.source(method, "train.lr=1e-30")), kept(run)
    untouched, found = by_name(place.config().model.load().model), between(run, place, 0.5)
    assert began.keys() == ended.keys() <= found.keys()
    assert any(not began[name].equal(ended[name]) for name in ended)
    for name, tensor in found.items():
        if name in ended:
            mean = (began[name].double() + ended[name].double()) / 2
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-9)
        else:
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert tensor.float().equal(untouched[plain].float())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_its_ends_measure_what_the_base_and_the_run_measure(place: Place, method: str) -> None:
    run, untouched = place.source(method), place.run("method=frozen")
    assert place.wise(run, 0.0).final == untouched.final
    assert place.wise(run, 1.0).final == run.final != untouched.final


def test_its_beginning_is_the_base_bit_for_bit(place: Place) -> None:
    untouched, found = by_name(place.config().model.load().model), between(place.source("sft"), place, 0.0)
    assert found.keys() == untouched.keys()
    assert all(found[name].float().equal(tensor.float()) for name, tensor in untouched.items())


@pytest.mark.few(1)
@pytest.mark.parametrize("method", ["sft", "g_freeze"])
def test_trained_weights_are_not_rounded_to_what_the_base_is_held_in(place: Place, method: str) -> None:
    """Updates below bf16's 2⁻⁹ of a weight, put onto a base loaded in bf16."""
    run = place.source(method, "train.precision=bf16", "train.lr=1e-5")
    config = rebuild(run, None)
    base = config.model.load().model
    assert {p.dtype for p in base.parameters()} == {torch.bfloat16}
    found = by_name(load_trained(base, config.method, run))
    assert any(not t.equal(t.bfloat16().float()) for t in kept(run).values())
    assert all(found[name].equal(tensor) for name, tensor in kept(run).items())
    assert place.wise(run, 1.0, "train.precision=bf16").final == run.final


def test_a_start_at_random_is_that_of_the_run_and_not_of_the_moment(place: Place) -> None:
    run = place.source("lora")
    torch.manual_seed(99)
    first = between(run, place, 0.25)
    torch.rand(7)
    again = between(run, place, 0.25)
    assert all(again[name].equal(tensor) for name, tensor in first.items())


# --------------------------------------------------------------------------------- at the original size


@pytest.mark.parametrize(("method", "share"), [("g_freeze", 0.5), ("output_mix", 0.25)])
def test_old_and_new_mlps_are_averaged_by_their_share(place: Place, method: str, share: float) -> None:
    """New down-projections carry the share already, so theirs is a sum."""
    run = place.source(method)
    model: Any = place.config().model.load().model
    untouched = {name: p.detach().clone() for name, p in by_name(model).items()}
    found = by_name(prepare(Averaged(run.title, str(place.results)), model, None))
    assert found.keys() == untouched.keys()
    new = {name.removeprefix("base_model.model."): tensor for name, tensor in kept(run).items()}
    moved = 0
    for name, old in untouched.items():
        expected = old.double()
        grown = name.replace(".weight", ".grow.weight")
        if grown in new:
            of_new = 1 if "down_proj" in name else share
            expected = (1 - share) * expected + of_new * new[grown].double()
            moved += 1
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-6, atol=1e-8)
    assert moved == len(new)


def test_an_average_is_measured_as_its_export_is(place: Place, tmp_path: Path) -> None:
    run = place.source("g_freeze")
    averaged = place.run("method=averaged", f"method.run={run.title}")
    assert averaged.record.parameters.added == averaged.record.parameters.trainable == 0
    export(run, tmp_path / "out", "averaged", "fp32", None)
    exported = cost(run, tmp_path / "out", None)
    # Not to the last digit: a checkpoint is loaded in bf16.
    assert exported["task/loss"] == pytest.approx(averaged.final["task/loss"], rel=1e-4)
    assert abs(run.final["task/loss"] / averaged.final["task/loss"] - 1) > 1e-3


# ------------------------------------------------------------------------------------- the commands


@pytest.fixture
def halfway(place: Place) -> RunResult:
    return place.wise(place.source("lora"), 0.5)


def gdo(place: Place, *words: str) -> Any:
    return CliRunner().invoke(app, [*words, "--results", str(place.results)])


def test_nothing_is_trained_and_nothing_kept(halfway: RunResult) -> None:
    assert (halfway.record.steps, halfway.weights) == (0, None)
    assert halfway.record.parameters.trainable == 0
    assert halfway.final["kl/answer"] > 0
    assert "results_dir" not in halfway.record.config["method"]


def test_it_is_measured_again_as_its_run_measured_it(halfway: RunResult) -> None:
    torch.manual_seed(5)
    config = evaluation_config(halfway, [], ["winogrande"], 2, True, None)
    found = measure(Opened(config, halfway))
    task = {name: value for name, value in halfway.final.items() if name.startswith("task/")}
    assert {name: found[name] for name in task} == task


def test_it_answers_and_is_exported_from_any_folder(
    place: Place, halfway: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answered = gdo(place, "generate", halfway.title, "Water boils", "--max-new-tokens", "2")
    assert answered.exit_code == 0, answered.output
    assert "tuned" in answered.stdout
    exported = gdo(place, "export", halfway.title, "out", "--dtype", "fp32")
    assert exported.exit_code == 0, exported.output
    found = load_file(tmp_path / "out" / "model.safetensors")
    weights = between(place.source("lora"), place, 0.5)
    name = "model.layers.0.mlp.up_proj"
    a, b = (weights[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "AB")
    merged = weights[f"base_model.model.{name}.base_layer.weight"].double() + 32 / 16 * b @ a
    torch.testing.assert_close(found[f"{name}.weight"].double(), merged, rtol=1e-5, atol=1e-7)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.run=nowhere"], "no finished run 'nowhere'"),
        (["method.run=tiny"], "'tiny' names "),
        (["method.run={gone}"], "its weights were not kept; run it again: gdo train --force model=tiny"),
        (["method.run={sft}", "model=smollm2_135m"], "a run of model=tiny, not of smollm2_135m"),
        (["method.run={sft}", "model.hidden_size=128"], "its model=tiny had other settings"),
        (["method.run={frozen}"], "/seed0 trained nothing"),
        (["method.run={halfway}"], "/seed0 trained nothing; name a run that did"),
        (["method.run={sft}", "method.alpha=-0.5"], "method.alpha=-0.5: 0 for the base, 1 for the run"),
        ([], "method.run: needs a value"),
        (
            ["method=averaged", "method.run={sft}"],
            "of SFT there is no average to take; name a run of",
        ),
        (["method=averaged", "method.run={g_train}"], "of G-Train there is no average to take"),
        (["method=averaged", "method.run={frozen}"], "/seed0 trained nothing"),
    ],
)
def test_runs_that_cannot_be_interpolated_are_refused(
    place: Place, halfway: RunResult, words: list[str], message: str
) -> None:
    known = {
        "gone": place.source("sft", "save_weights=false", "train.steps=1").title,
        "sft": place.source("sft").title,
        "g_train": place.source("g_train").title,
        "frozen": place.run("method=frozen").title,
        "halfway": halfway.title,
    }
    asked = ["method=wise_ft", f'results_dir="{place.results}"', *(word.format(**known) for word in words)]
    result = CliRunner().invoke(app, ["train", *SHORT, *asked])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_run_of_a_method_of_ones_own_is_interpolated(place: Place, tmp_path: Path) -> None:
    """Its YAML need not be there any more: the run's record says what the method was."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("defaults: [g_freeze]\nlayers: [1]\n")
    words = ["seed=1", "train.lr=1e-2", f'results_dir="{place.results}"']
    config = load_run([*SHORT, "method=mine", *words], tmp_path)
    run = experiment.run(config)
    model = load_trained(config.model.load().model, config.method, run)
    expected, found = by_name(model), between(run, place, 1.0)
    assert expected.keys() == found.keys()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert place.run("method=averaged", f"method.run={run.title}").record.parameters.added == 0


def test_a_results_folder_of_any_name_is_found_again(tmp_path: Path) -> None:
    config = load_run([*SHORT, "method=frozen"])
    record = {"overrides": config.overrides, "config": identity(config), "name": config.name}
    for name in ("it's", "back\\slash", "a \\'quote", "[1, 2] \\"):
        folder = tmp_path / name / "runs" / "tiny" / "scitail" / "frozen-0" / "seed0"
        assert rebuild(RunResult(folder, recorded(record)), None).results_dir == str(tmp_path / name)
    assert rebuild(RunResult(Path("/moved"), recorded(record)), None).id == config.id


# -------------------------------------------------------------------------------- solved examples

SHOWN = ("method=frozen", "method.shots=5")


def suite(loaded: Loaded, place: Place, *words: str) -> Evaluator:
    config = place.config(*words)
    return build_evaluator(config, read_run_data(config), Encoder.of(loaded.tokenizer, []))


def test_the_same_five_solved_training_examples_stand_before_every_prompt(
    place: Place, tiny_loaded: Loaded
) -> None:
    rows = (SAMPLE_DIR / "scitail" / "train.jsonl").read_text("utf-8").splitlines()
    training = [SciTail.example(None, json.loads(row)) for row in rows]  # type: ignore[arg-type]
    solved = {f"{example.prompt}{example.answer}" for example in training}
    measured, plain = (suite(tiny_loaded, place, *words) for words in (SHOWN, SHOWN[:1]))
    before = set()
    for role, n in (("validation", 4), ("test", 6)):
        assert len(measured.splits[role]) == n
        for (example, query), (_, alone) in zip(measured.splits[role], plain.splits[role], strict=True):
            bos, *context = query.context
            assert bos == tiny_loaded.tokenizer.bos_token_id
            text = tiny_loaded.tokenizer.decode(context)
            assert text.endswith(example.prompt)
            assert query.continuation == alone.continuation
            assert context == tiny_loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
            before.add(text.removesuffix(example.prompt))
    (text,) = before
    *shots, rest = text.split("\n\n")
    assert (len(set(shots)), rest) == (5, "")
    assert set(shots) <= solved
    seen = suite(tiny_loaded, place, *SHOWN, "seed=1").shown
    assert "".join(f"{e.prompt}{e.answer}\n\n" for e in seen) == text


def test_without_shots_a_run_is_called_what_it_was_called_before_there_were_any(place: Place) -> None:
    config, shown = place.config("method=frozen"), place.config(*SHOWN)
    content = {key: value for key, value in identity(config).items() if key != "seed"}
    content["method"] = {"_target_": "gdo_cli.methods.partial.Frozen"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    assert config.id == hashlib.sha256(text.encode()).hexdigest()[:8] != shown.id
    assert identity(shown)["method"] == content["method"] | {"shots": 5}
    assert (config.method.label, shown.method.label) == ("Untouched", "Untouched, 5-shot")


def test_a_run_with_shots_is_measured_again_with_them(place: Place) -> None:
    shown, untouched = place.run(*SHOWN), place.run("method=frozen")
    assert shown.evaluations[0]["task/loss"] != untouched.evaluations[0]["task/loss"]
    config = evaluation_config(shown, [], ["winogrande"], 2, True, None)
    assert (
        measure(Opened(config, shown))["task/loss"]
        == shown.final["task/loss"]
        != untouched.final["task/loss"]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.shots=-1"], "method.shots=-1: must not be negative"),
        (["method.shots=2.5"], "method.shots=2.5: must be a whole number"),
        (
            ["method.shots=2", "task=jsonl", "task.path=x", "task.lines=many"],
            "the answers of JSONL have several lines",
        ),
    ],
)
def test_shots_that_cannot_be_shown_are_refused(place: Place, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        place.run("method=frozen", *words)
