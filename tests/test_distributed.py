"""Several processes on one run: what is trained is what one process trains, and one folder comes of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import EOS, TINY_RUN, random_queries
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from gdo_cli.config.build import load_run
from gdo_cli.experiment import run as experiment
from gdo_cli.runs.find import find_runs
from gdo_cli.runs.record import RunResult
from gdo_cli.training.batches import Batch, batches, step_batches
from gdo_cli.training.config import TrainConfig

LOSS, WEIGHTS = 2e-5, 1e-5  # relative, absolute: fp32 sums in another order, through a few steps of Adam
# An update of Adam's is the gradient's sign where the gradient is mere rounding, unless epsilon is above it.
STEPS = ("train.adam_epsilon=1e-4", "train.lr=1e-3")
SHARD = "train.shard=true"
NOT_ADAM = ("train.adam_epsilon=1e-8",)  # nor is it asked for: what others have no use for is refused
SCALED = ("train.lr_scale={gate_proj: 0.5, down_proj: 2}",)
ACCUMULATING = ("train.gradient_accumulation_steps=3", "train.max_grad_norm=0.1", "train.batch_size=5")

SHORT = {
    "ddp": ["method=g_freeze", *ACCUMULATING],
    "fsdp": ["method=sft", SHARD, *ACCUMULATING],
}
LONG = {
    "ddp_sft": ["method=sft"],
    "fsdp_g_freeze": ["method=g_freeze", "layers=[1,2]", SHARD],
    "ddp_idle": ["method=g_freeze", "train.batch_size=1"],
    "fsdp_idle": ["method=g_freeze", "train.batch_size=1", SHARD],
    "ddp_budget": ["method=sft", "train.token_budget=40", "train.batch_size=7"],
    "fsdp_budget": ["method=sft", "train.token_budget=40", "train.batch_size=7", SHARD],
    "ddp_replay": ["method=replay", "train.gradient_accumulation_steps=2"],
    "fsdp_replay": ["method=replay", "train.gradient_accumulation_steps=3", SHARD],
    "ddp_kl": ["method=kl_to_base", "train.gradient_accumulation_steps=3"],
    "fsdp_kl": ["method=kl_to_base", "train.gradient_accumulation_steps=2", SHARD],
    "ddp_l2_sp": ["method=l2_sp", "train.gradient_accumulation_steps=2"],
    "ddp_g_train": ["method=g_train", "evaluation.ranks=true", "train.gradient_checkpointing=true"],
    "fsdp_g_train": ["method=g_train", "evaluation.ranks=true", "train.gradient_checkpointing=true", SHARD],
    "ddp_lora": ["method=lora"],
    "fsdp_lora": ["method=lora", SHARD],
    "fsdp_attention": ["method=attention_grow", SHARD],
    "ddp_adafactor": ["method=sft", "train.optimizer=adafactor", *NOT_ADAM],
    "ddp_sgd": ["method=sft", "train.optimizer=sgd", *NOT_ADAM],
    "fsdp_sgd": ["method=sft", "train.optimizer=sgd", *NOT_ADAM, SHARD],
    "ddp_scaled": ["method=sft", *SCALED],
    "fsdp_scaled": ["method=sft", *SCALED, SHARD],
    "fsdp_pilot": ["method=g_freeze", "layers=2", SHARD],
}


def launch(*words: str, processes: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module or script in several processes, as a user would."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *words]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables)


def overrides(words: list[str], results: Path) -> list[str]:
    return [*TINY_RUN, *STEPS, *words, f"results_dir={results}"]


def together(cases: dict[str, list[str]], root: Path) -> None:
    """All cases in two processes, each in its own results folder, with one start-up for all.

    As torchrun starts them, which takes as long to start as they do; the long form has it.
    """
    file = root / "points.json"
    file.write_text(json.dumps([overrides(words, root / name) for name, words in cases.items()]))
    command = [sys.executable, str(Path(__file__).with_name("distributed_worker.py")), str(file)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    with ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | common | rank)
            )
            for rank in ranks
        ]
        said = [process.communicate(timeout=300)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], said


def weights(result: RunResult) -> dict[str, Tensor]:
    assert result.weights is not None
    (file,) = result.weights.glob("*.safetensors")
    return load_file(file)


def assert_same(found: RunResult, expected: RunResult) -> None:
    """The same run, up to the order of sums."""
    assert (found.id, found.record.machine["processes"]) == (expected.id, 2)
    assert [line["kind"] for line in found.metrics] == [line["kind"] for line in expected.metrics]
    for one, other in zip(found.metrics, expected.metrics, strict=True):
        if one["kind"] == "train":
            for key in ("loss", "grad_norm", "penalty"):
                assert one.get(key, 0.0) == pytest.approx(other.get(key, 0.0), rel=LOSS), (one["step"], key)
            assert (one["step"], one["tokens"], one["lr"]) == (other["step"], other["tokens"], other["lr"])
        if one["kind"] == "moved":
            assert one["kinds"].keys() == other["kinds"].keys()
            for kind, moved in one["kinds"].items():
                assert moved["norm"] == pytest.approx(other["kinds"][kind]["norm"], rel=1e-3)
    for key in ("task/loss", "kl/prompt"):
        assert found.final[key] == pytest.approx(expected.final[key], abs=1e-4)
    for one, other in zip(found.record.updates, expected.record.updates, strict=True):
        assert (one["layer"], one["module"]) == (other["layer"], other["module"])
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-3)
    mine, theirs = weights(found), weights(expected)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert_close(tensor, theirs[name], rtol=0, atol=WEIGHTS, msg=f"{name} is not the same")


def compare(cases: dict[str, list[str]], root: Path) -> None:
    together(cases, root)
    for name, words in cases.items():
        expected = experiment.run(load_run(overrides(words, root / f"{name}-alone")))
        found = next(run for run in find_runs(root / name) if run.id == expected.id)
        assert_same(found, expected)
        assert not list(found.path.glob(".*.tmp"))


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    compare(SHORT, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_so_they_do_with_every_way_to_train(tmp_path: Path, kind: str) -> None:
    compare({name: words for name, words in LONG.items() if name.startswith(kind)}, tmp_path)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("budget", [None, 30])
@pytest.mark.parametrize("undivided", [False, True])
def test_all_examples_of_a_step_are_dealt_out_once(
    processes: int, budget: int | None, undivided: bool
) -> None:
    examples = random_queries(12)
    config = TrainConfig(batch_size=2, gradient_accumulation_steps=2, token_budget=budget)

    def texts(shares: list[list[Batch]]) -> list[list[int]]:
        batches_ = [batch for share in shares for batch in share]
        return sorted(
            row[:n]
            for batch in batches_
            for row, n in zip(batch.input_ids_BT.tolist(), batch.lengths, strict=True)
        )

    alone = step_batches(batches(examples, 2, seed=0), config, EOS)
    shares = step_batches(batches(examples, 2, seed=0), config, EOS, processes, undivided)
    assert len(shares) == processes
    assert texts(shares) == texts(alone)


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_its_message_and_another_number_of_them_goes_on(
    tmp_path: Path,
) -> None:
    words = overrides(["method=sft", "train.steps=6", "train.checkpoint_every=1"], tmp_path)
    worker = str(Path(__file__).with_name("distributed_worker.py"))
    file = tmp_path / "points.json"
    file.write_text(json.dumps([words]))
    failed = launch(worker, str(file), GDO_TEST_FAIL="1:4")  # the second process, in its fourth step
    assert failed.returncode == 1
    (mark,) = tmp_path.rglob("failed.json")
    assert (
        "training after step 3 of 6: ValueError: broken on purpose" in json.loads(mark.read_text())["error"]
    )
    assert failed.stderr.count("going on") == 0
    file.write_text(json.dumps([[*words, SHARD]]))
    cut = launch(worker, str(file), GDO_TEST_FAIL="0:3")  # taken up in pieces, and failing again
    assert cut.returncode == 1
    assert "going on from step 3 of 6" in cut.stderr
    alone = load_run(overrides(["method=sft", "train.steps=6"], tmp_path / "alone"))
    resumed = experiment.run(load_run(words))  # by one process, from a checkpoint of two
    expected = experiment.run(alone)
    assert [line["step"] for line in resumed.metrics] == [line["step"] for line in expected.metrics]
    for name, tensor in weights(resumed).items():
        assert_close(tensor, weights(expected)[name], rtol=0, atol=WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["false", "true"])
def test_the_command_line_under_torchrun(tmp_path: Path, shard: str) -> None:
    words = overrides([f"train.shard={shard}", "train.token_budget=64"], tmp_path)
    first = launch("-m", "gdo_cli", "train", *words)
    assert first.returncode == 0, first.stderr[-3000:]
    assert first.stdout.count("task/loss") == 1  # one process speaks
    again = launch("-m", "gdo_cli", "train", *words)
    assert again.returncode == 0
    assert again.stderr.count("already done") == 1
    refused = launch("-m", "gdo_cli", "train", *words, "train.lr=-1")
    assert refused.returncode != 0
    assert refused.stderr.count("error: train.lr=-1") == 1
