"""One run from its configuration to its folder: repeatable, idempotent, guarded, complete."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RUN, RunFactory
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import Olmo2Config, Olmo2ForCausalLM

from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.rows import SAMPLE_DIR
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.experiment import reopen
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import Opened, build_evaluator, read_run_data
from gdo_cli.experiment.weights import load_trained
from gdo_cli.growth import model as growth_model
from gdo_cli.growth.layer import GrownRows
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.device import hold_weights, peak_memory, reset_peak_memory
from gdo_cli.lm.tokens import Encoder, end_ids
from gdo_cli.models.loading import Loaded
from gdo_cli.models.tiny import TinyModel
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import RunFailed, UserError


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "seconds"}


def adapter(result: RunResult) -> dict[str, Tensor]:
    assert result.weights is not None
    return load_file(result.weights / "adapter_model.safetensors")


def predictions(result: RunResult) -> list[dict[str, Any]]:
    text = gzip.decompress((result.path / "predictions.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunResult]:
    """A G-Freeze run that the tests below read; none of them writes to it."""
    config = load_run([*TINY_RUN, f"results_dir={tmp_path_factory.mktemp('results')}"])
    return config, experiment.run(config)


def suite_and_base(config: RunConfig) -> tuple[Evaluator, AnswerLM]:
    """The run's measurements and the untouched model, put together without the run."""
    loaded = config.model.load()
    encoder = Encoder.of(loaded.tokenizer, end_ids(loaded.model))
    hold_weights(loaded.model.requires_grad_(False), torch.float32)
    suite = build_evaluator(config, read_run_data(config), encoder)
    return suite, AnswerLM(loaded.model, torch.float32)


# ------------------------------------------------------------------------------------ repeatable


def test_the_same_seed_gives_the_same_run_bit_for_bit(
    finished: tuple[RunConfig, RunResult], tiny_run: RunFactory
) -> None:
    _, first = finished
    again = experiment.run(tiny_run())
    assert again.path != first.path
    assert list(map(timeless, again.metrics)) == list(map(timeless, first.metrics))
    assert again.final == first.final
    assert same_tensors(adapter(again), adapter(first))
    assert predictions(again) == predictions(first)


def test_another_seed_gives_another_run_measured_on_the_same_items(
    finished: tuple[RunConfig, RunResult], tiny_run: RunFactory
) -> None:
    _, first = finished
    other = experiment.run(tiny_run("seed=1"))
    assert other.id == first.id
    assert other.metrics[1:] != first.metrics[1:]
    assert not same_tensors(adapter(other), adapter(first))
    assert other.evaluations[0] == first.evaluations[0]


# ------------------------------------------------------------------------------------ idempotent


def no_weights(_: TinyModel) -> Loaded:
    raise AssertionError("the weights were loaded")


def test_a_finished_run_returns_at_once_without_loading_weights(
    finished: tuple[RunConfig, RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, first = finished
    stamp = (first.path / "result.json").stat().st_mtime_ns
    monkeypatch.setattr(TinyModel, "load", no_weights)
    monkeypatch.setattr(reopen, "read_run_data", no_weights)
    assert experiment.run(config).record == first.record
    assert (first.path / "result.json").stat().st_mtime_ns == stamp


def test_a_run_that_did_not_finish_starts_afresh(
    tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run("train.steps=2")
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "save_trained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
    folder = RunFolder(config.path)
    assert folder.load() is None
    assert (folder.path / "metrics.jsonl").is_file()
    result = experiment.run(config)
    assert [line["step"] for line in result.metrics] == [0, 1, 2, 2, 2]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_forcing_runs_again(tiny_run: RunFactory) -> None:
    config = tiny_run("train.steps=1", "evaluation.final_items=2")
    first = experiment.run(config)
    stamp = (first.path / "result.json").stat().st_mtime_ns
    again = experiment.run(config, force=True)
    assert (again.path / "result.json").stat().st_mtime_ns > stamp
    assert list(map(timeless, again.metrics)) == list(map(timeless, first.metrics))


def test_a_finished_run_says_so_where_its_data_have_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(SAMPLE_DIR, tmp_path / "data")
    words = ["model=tiny", "task=scitail", "probe=[]", "train.steps=1", "evaluation.final_items=2"]
    where = ["data=local", f"data.dir={tmp_path / 'data'}", f"results_dir={tmp_path / 'results'}"]
    splits = "task.dataset.splits={train: train, validation: validation, test: test}"
    config = load_run([*words, *where, splits])
    experiment.run(config)
    file = tmp_path / "data" / "scitail" / "test.jsonl"
    lines = file.read_bytes()
    for changed, told in ((lines, False), (lines.replace(b"entails", b"neutral"), True), (None, False)):
        file.write_bytes(changed) if changed else shutil.rmtree(tmp_path / "data")
        capsys.readouterr()
        experiment.run(config)
        said = capsys.readouterr()
        assert "already done" in said.out + said.err
        assert ("the test data have changed since the run was made" in said.out + said.err) == told


# --------------------------------------------------------------------------------------- guarded


def test_growth_that_changes_the_function_is_refused(
    tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = GrownRows.initial

    def off_by_a_little(self: GrownRows, config: Any) -> tuple[Tensor | None, Tensor | None]:
        weight, bias = usual(self, config)
        assert weight is not None
        return weight * 1.001, bias

    monkeypatch.setattr(GrownRows, "initial", off_by_a_little)
    monkeypatch.setattr(growth_model, "require_same_function", lambda *_: None)  # the library's own check
    config = tiny_run()
    with pytest.raises(RunFailed, match="does not preserve this model's function"):
        experiment.run(config)
    assert RunFolder(config.path).load() is None


def test_weights_that_are_not_finite_are_refused(
    tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = GrownRows.initial

    def lost(self: GrownRows, config: Any) -> tuple[Tensor | None, Tensor | None]:
        weight, bias = usual(self, config)
        return None if weight is None else weight * torch.nan, bias

    monkeypatch.setattr(GrownRows, "initial", lost)
    with pytest.raises(UserError, match="cannot grow: its output is not finite"):
        experiment.run(tiny_run())
    monkeypatch.setattr(growth_model, "require_same_function", lambda *_: None)
    with pytest.raises(RunFailed, match="does not preserve"):
        experiment.run(tiny_run())


def test_a_head_that_does_more_than_is_known_is_refused(
    tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = AnswerLM.logits
    monkeypatch.setattr(AnswerLM, "logits", lambda self, hidden: 2 * usual(self, hidden))
    with pytest.raises(RunFailed, match="its head does more"):
        experiment.run(tiny_run())


def test_training_that_diverges_fails_and_leaves_no_result(tiny_run: RunFactory) -> None:
    config = tiny_run("train.lr=1e30")
    with pytest.raises(RunFailed, match=r"step \d: the (loss is nan|gradient is not finite)"):
        experiment.run(config)
    assert RunFolder(config.path).load() is None


def test_layers_that_the_model_does_not_have_are_refused(tiny_run: RunFactory) -> None:
    with pytest.raises(UserError, match="no layer 9; the model has layers 0 to 3"):
        experiment.run(tiny_run("layers=[0,9]"))


# -------------------------------------------------------------------------------------- complete


def test_step_0_measures_the_base_model(finished: tuple[RunConfig, RunResult]) -> None:
    config, result = finished
    suite, base = suite_and_base(config)
    expected = suite.evaluate(base, "validation").metrics
    divergence = dict.fromkeys(("kl/answer", "kl/answer_se", "kl/prompt", "kl/prompt_se"), 0.0)
    measured = expected | divergence | {"update/distance": 0.0}
    assert result.evaluations[0] == {"kind": "evaluation", "step": 0} | measured


def test_the_base_s_perplexity_is_that_of_the_trained_model_without_its_adapter(tiny_run: RunFactory) -> None:
    """It was measured before anything was added; what is left without the adapter is that very model."""
    words = (
        "probe=[winogrande,perplexity]",
        "probe.perplexity.items=4",
        "probe.perplexity.min_characters=60",
    )
    config = tiny_run(*words, "train.lr=0.05")
    result = experiment.run(config)
    opened = Opened(config, result)
    model = opened.trained_model()
    lm = AnswerLM(model, torch.float32)
    evaluator = opened.evaluator()
    with model.disable_adapter():
        without = evaluator.evaluate_probe(lm, "perplexity").metrics["perplexity/loss"]
    trained = evaluator.evaluate_probe(lm, "perplexity").metrics["perplexity/loss"]
    assert without == pytest.approx(result.evaluations[0]["perplexity/loss"], rel=1e-6)
    assert abs(trained - without) > 1e-3


@pytest.mark.few(2)
@pytest.mark.parametrize(("every", "steps"), [(2, 5), (3, 4), (100, 3), (1, 2), (4, 4)])
def test_the_last_step_is_evaluated_whatever_lies_between(
    every: int, steps: int, tiny_run: RunFactory
) -> None:
    words = (f"train.steps={steps}", f"evaluation.every={every}", "save_weights=false")
    found = [line["step"] for line in experiment.run(tiny_run(*words)).evaluations]
    assert found == sorted({*range(0, steps, every), steps})


@pytest.mark.slow
def test_a_probe_may_be_asked_before_and_after_training_alone(tiny_run: RunFactory) -> None:
    words = ["train.steps=3", "evaluation.every=1", "probe=[winogrande,arc_easy]", "probe.winogrande.items=4"]
    words += ["probe.arc_easy.items=4", "save_weights=false"]
    always = tiny_run(*words)
    ends = tiny_run(*words, "probe.arc_easy.throughout=false")
    assert always.id != ends.id
    every, few = experiment.run(always), experiment.run(ends)
    asked = [{name.split("/")[0] for name in line} & {"winogrande", "arc_easy"} for line in few.evaluations]
    assert asked == [{"winogrande", "arc_easy"}, {"winogrande"}, {"winogrande"}, {"winogrande", "arc_easy"}]
    assert few.evaluations[-1] == every.evaluations[-1]
    assert few.final == every.final


def test_peft_alone_puts_the_saved_adapter_back_onto_the_base(
    finished: tuple[RunConfig, RunResult],
) -> None:
    config, result = finished
    suite, lm = suite_and_base(config)
    suite.remember_base(lm)
    assert result.weights == result.path / "adapter"
    loaded = AnswerLM(PeftModel.from_pretrained(lm.model, result.weights), torch.float32)
    assert suite.evaluate(loaded, "test").metrics == result.final
    assert result.final["kl/answer"] > 0


def test_trained_weights_with_a_bit_flipped_are_refused(
    finished: tuple[RunConfig, RunResult], tmp_path: Path
) -> None:
    config, result = finished
    copy = replace(result, path=Path(shutil.copytree(result.path, tmp_path / "copy")))
    file = copy.path / "adapter" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    _, lm = suite_and_base(config)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: .*checksum.*gdo train --force"):
        load_trained(lm.model, config.method, copy)


@pytest.mark.few(2)
@pytest.mark.parametrize("method", ["sft", "mlp_only", "zero_block", "attention_grow", "output_mix"])
def test_the_kept_weights_of_a_method_measure_what_its_run_recorded(
    tiny_run: RunFactory, method: str
) -> None:
    config = tiny_run(f"method={method}", "train.steps=2", "train.lr=1e-2")
    result = experiment.run(config)
    suite, lm = suite_and_base(config)
    suite.remember_base(lm)
    tuned = load_trained(lm.model, config.method, result)
    assert suite.evaluate(AnswerLM(tuned, torch.float32), "test").metrics == result.final
    assert result.final["kl/answer"] > 0


def test_g_train_runs_to_its_end(tiny_run: RunFactory) -> None:
    result = experiment.run(tiny_run("method=g_train", "layers=[1,2]", "save_weights=false"))
    assert result.weights is None
    assert set(result.record.parameters.trainable_by_module) == {"gate_proj", "up_proj"}


def test_a_run_in_bf16_preserves_the_function_exactly(tiny_run: RunFactory) -> None:
    result = experiment.run(tiny_run("train.precision=bf16", "train.steps=1"))
    assert result.record.precision == "bfloat16"
    assert result.evaluations[0]["kl/answer"] == 0.0


def test_steps_and_evaluations_are_logged_in_order(finished: tuple[RunConfig, RunResult]) -> None:
    _, result = finished
    kinds = [(line["kind"], line["step"]) for line in result.metrics]
    steps = [("train", n) for n in (1, 2, 3, 4)]
    at_2, at_4 = ([("evaluation", n), ("moved", n)] for n in (2, 4))
    assert kinds == [("evaluation", 0), *steps[:2], *at_2, *steps[2:], *at_4]


def test_predictions_name_every_item_of_the_final_evaluation(finished: tuple[RunConfig, RunResult]) -> None:
    _, result = finished
    items = predictions(result)
    assert [item["part"] for item in items] == ["task/test"] * 8 + ["winogrande"] * 4
    assert result.final["task/exact_match"] == sum(item["correct"] for item in items[:8]) / 8


def test_the_result_records_what_a_reader_needs(finished: tuple[RunConfig, RunResult]) -> None:
    config, result = finished
    record = result.record
    assert (record.id, record.seed, record.steps) == (config.id, 0, 4)
    assert (record.method_label, record.precision) == ("G-Freeze", "float32")
    assert record.name["task"] == "scitail"
    assert {f"{part}{end}" for part in ("task/exact_match", "task/loss", "winogrande/likelihood", "kl/answer")
            for end in ("", "_se")} <= set(record.final)  # fmt: skip
    matrices = 4 * 3 * 64 * 128  # layers, gate, up and down
    assert record.parameters.added == record.parameters.trainable == matrices
    assert record.data["source"] == "sample"
    assert len(record.data["train"]["sha256"]) == len(record.weights["sha256"]) == 64
    assert record.data["test_items"] == 8
    assert {"torch", "transformers", "peft"} <= set(record.versions)
    assert record.peak_memory_bytes > 0
    assert record.tokens_per_second > 0
    assert record.wall_seconds >= record.train_seconds >= 0


def test_nothing_in_a_record_tells_where_it_was_made(
    finished: tuple[RunConfig, RunResult],
) -> None:
    _, result = finished
    written = json.dumps(result.record.to_dict())
    for place in (str(Path.home()), str(Path.cwd()), str(result.path.parents[4]), socket.gethostname()):
        assert place not in written


def test_the_configuration_of_the_run_stands_beside_its_result(
    finished: tuple[RunConfig, RunResult],
) -> None:
    config, result = finished
    written = (result.path / "config.yaml").read_text("utf-8")
    assert "gdo_cli.methods.grow.GFreeze" in written
    assert config.data.source == "sample"


def test_the_peak_of_memory_is_that_of_the_run_and_not_of_the_process() -> None:
    cpu = torch.device("cpu")
    large = torch.ones(64_000_000)  # 256 MB, touched
    reset_peak_memory(cpu)
    with_it = peak_memory(cpu)
    del large
    reset_peak_memory(cpu)
    assert peak_memory(cpu) < with_it - 200_000_000


def test_a_model_that_cannot_run_so_changed_is_refused_in_a_line(
    tmp_path: Path, tiny_run: RunFactory
) -> None:
    """OLMo 2 normalises the queries of all heads together: more heads do not fit its norm."""
    loaded = load_run(["model=tiny"]).model.load()
    config = Olmo2Config(
        vocab_size=loaded.model.config.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=loaded.tokenizer.eos_token_id,
        pad_token_id=None,
    )
    folder = tmp_path / "olmo2"
    Olmo2ForCausalLM(config).save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    words = ["model=custom", f"model.path={folder}", "method=attention_grow"]
    with pytest.raises(UserError, match="method=attention_grow: Olmo2ForCausalLM cannot run so changed"):
        experiment.run(tiny_run(*words))
