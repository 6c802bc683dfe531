"""A run that was cut off goes on from its checkpoint, and ends in the same bits as one that was not."""

from __future__ import annotations

import gzip
import pickle
import random
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, RunFactory

from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment import reopen
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.checkpoints import (
    Checkpoint,
    CheckpointManager,
    Unusable,
    _random_states,
    _set_random_states,
)
from gdo_cli.lm.device import describe_machine
from gdo_cli.runs.folder import CHECKPOINT, RunFolder
from gdo_cli.runs.record import RunResult
from gdo_cli.training.loop import Step

TIMES = {"wall_seconds", "train_seconds", "tokens_per_second", "peak_memory_bytes"}
SHORT = ("lora", "adafactor")  # the others belong to the long form: make test-faults
METHODS = {
    "g_freeze": ["method=g_freeze", "layers=[1,2]"],
    "sft": ["method=sft", "train.lr_scheduler=cosine", "train.warmup_steps=2"],
    "attention_grow": ["method=attention_grow"],
    "lora": ["method=lora", "+method.options.lora_dropout=0.3"],  # draws from torch's generator at every step
    "replay": ["method=replay", "method.items=2", "train.gradient_accumulation_steps=2"],
    "l2_sp": ["method=l2_sp", "train.max_grad_norm=1.0"],
    "kl_to_base": ["method=kl_to_base", "evaluation.ranks=true"],
    "g_train": ["method=g_train", "evaluation.ranks=true", "train.gradient_accumulation_steps=3"],
    "compiled": ["method=g_freeze", "train.compile=always"],
    "bf16": ["method=g_freeze", "train.precision=bf16"],
    "adafactor": [
        *("method=sft", "train.optimizer=adafactor", "evaluation.ranks=true"),
        *("train.lr_scheduler=linear", "train.warmup_steps=2", "train.lr_scale={mlp: 0.5, q_proj: 2}"),
    ],
    "sgd": ["method=g_freeze", "train.optimizer=sgd", "train.lr_scale={gate_proj: 0.5}"],
    "adam8bit": ["method=sft", "train.optimizer=adam8bit", "train.lr_scale={mlp: 0.5}"],
}
STEPS = ("train.steps=6", "evaluation.every=3", "train.checkpoint_every=1", "train.lr=1e-2")


class Killed(BaseException):
    """Stands in for a kill: nothing in the package may catch it."""


def contents(result: RunResult) -> dict[str, Any]:
    """Everything a run leaves behind, to the bit, its times and memory left out."""
    record = {key: value for key, value in result.record.to_dict().items() if key not in TIMES}
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in result.metrics]
    items = ("predictions.jsonl.gz", "untouched.jsonl.gz")
    predictions = [gzip.decompress((result.path / name).read_bytes()) for name in items]
    weights = {
        str(file.relative_to(result.path)): file.read_bytes() for file in result.path.rglob("*.safetensors")
    }
    record.pop("overrides")
    return {"record": record, "metrics": lines, "predictions": predictions, "weights": weights}


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """End the process's work at the given call of a function, before it does anything."""
    usual: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, call + 1))

    def killed(*args: Any, **kwargs: Any) -> Any:
        if next(calls, call) == call:
            raise Killed
        return usual(*args, **kwargs)

    monkeypatch.setattr(owner, name, killed)


def cut_off(config: RunConfig, owner: Any, name: str, call: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, owner, name, call)
        with pytest.raises(Killed):
            experiment.run(config)


def one_by_one(cases: dict[str, Any], short: tuple[str, ...]) -> list[Any]:
    """Parameters with their names; all but a few are run by ``make test-faults`` alone."""
    marks = {name: () if name in short else (pytest.mark.faults,) for name in cases}
    return [pytest.param(case, id=name, marks=marks[name]) for name, case in cases.items()]


@pytest.mark.few(1)
@pytest.mark.parametrize("words", one_by_one(METHODS, SHORT))
def test_a_run_that_was_cut_off_ends_in_the_same_bits(
    tiny_run: RunFactory, tmp_path: Path, words: list[str]
) -> None:
    if "train.optimizer=adam8bit" in words:
        pytest.importorskip("bitsandbytes")
    whole = experiment.run(tiny_run(*words, *STEPS, results_dir=tmp_path / "whole"))
    config = tiny_run(*words, *STEPS, results_dir=tmp_path / "cut")
    cut_off(config, experiment._Run, "log", 3)  # step 3 was computed, not yet noted
    cut_off(config, experiment._Run, "log", 3)  # goes on after 2: this is step 5
    assert contents(experiment.run(config)) == contents(whole)


# Where a run can be cut off: the function at whose call it ends, and the call.
MOMENTS = {
    "before_anything_is_written": (experiment._Run, "begin", 1),
    "first_evaluation": (experiment._Run, "evaluate", 1),
    "second_evaluation": (experiment._Run, "evaluate", 2),
    "last_evaluation": (experiment._Run, "evaluate", 3),
    "before_a_checkpoint": (CheckpointManager, "save", 4),
    "in_a_checkpoint": (torch, "save", 4),
    "renaming": (Path, "replace", 3),
    "predictions": (RunFolder, "save_predictions", 2),
    "test_data": (experiment._Run, "final", 1),
    "weights": (experiment, "save_trained", 1),
    "result": (RunFolder, "seal", 1),
    "after_the_result": (RunFolder, "tidy", 1),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run of the tests below leaves behind when nothing happens to it."""
    results = tmp_path_factory.mktemp("whole")
    return contents(experiment.run(load_run([*TINY_RUN, *STEPS, f"results_dir={results}"])))


@pytest.mark.parametrize("moment", one_by_one(MOMENTS, ("result",)))
def test_it_does_not_matter_when_a_run_is_cut_off(
    whole: dict[str, Any], tiny_run: RunFactory, moment: tuple[Any, str, int]
) -> None:
    cut_off(tiny_run(*STEPS), *moment)
    result = experiment.run(tiny_run(*STEPS))
    assert contents(result) == whole
    left = {entry.name for entry in result.path.iterdir()}
    items = {"predictions.jsonl.gz", "untouched.jsonl.gz"}
    assert left == {".lock", "config.yaml", "metrics.jsonl", "result.json", "adapter"} | items


@pytest.mark.faults
def test_how_often_checkpoints_are_written_changes_nothing(
    whole: dict[str, Any], tiny_run: RunFactory
) -> None:
    cut_off(tiny_run(*STEPS, "train.checkpoint_every=2"), experiment._Run, "log", 6)
    assert contents(experiment.run(tiny_run(*STEPS, "train.checkpoint_every=0"))) == whole


# --------------------------------------------------------------------------------------- what is told


def steps_logged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are computed from now on."""
    done: list[int] = []
    usual = experiment._Run.log

    def log(run: Any, step: Step) -> None:
        done.append(step.step)
        usual(run, step)

    monkeypatch.setattr(experiment._Run, "log", log)
    return done


@pytest.fixture(scope="module")
def cut_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("cut")
    cut_off(load_run([*TINY_RUN, *STEPS, f"results_dir={results}"]), experiment._Run, "log", 4)
    return results


@pytest.fixture
def cut(cut_once: Path, tiny_run: RunFactory, tmp_path: Path) -> RunConfig:
    """A run that has a checkpoint of its step 3."""
    shutil.copytree(cut_once, tmp_path, dirs_exist_ok=True)
    return tiny_run(*STEPS)


def test_only_the_steps_after_the_checkpoint_are_computed(
    cut: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = steps_logged(monkeypatch)
    result = experiment.run(cut)
    assert done == [4, 5, 6]
    assert "going on from step 3 of 6" in capsys.readouterr().err
    assert result.record.train_seconds > 0


@pytest.mark.faults
def test_force_starts_again(cut: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    done = steps_logged(monkeypatch)
    experiment.run(cut, force=True)
    assert done == [1, 2, 3, 4, 5, 6]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def flip_a_bit_of_the_header(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(b"train_seconds")] ^= 1
    file.write_bytes(content)


class Malice:
    """Unpickling it writes a file."""

    def __reduce__(self) -> Any:
        return Path.write_text, (Path("pwned"), "x")


def offer_a_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(Malice()))


def offer_a_torch_file(file: Path) -> None:
    torch.save(Malice(), file)


def cut_the_metrics(file: Path) -> None:
    metrics = file.with_name("metrics.jsonl")
    metrics.write_bytes(metrics.read_bytes()[:100])


def alter_the_metrics(file: Path) -> None:
    metrics = file.with_name("metrics.jsonl")
    metrics.write_bytes(metrics.read_bytes().replace(b"loss", b"gain", 1))


def lose_the_metrics(file: Path) -> None:
    file.with_name("metrics.jsonl").unlink()


def another_torch(file: Path) -> None:
    found = Checkpoint.read(file)
    found.facts["versions"]["torch"] = "1.0"
    found.write(file)


def another_torch_file(file: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, file)


DAMAGE = {
    truncate: "cannot be read",
    empty: "cannot be read",
    flip_a_bit: "checksum is wrong",
    flip_a_bit_of_the_header: "checksum is wrong",
    offer_a_pickle: "cannot be read",
    offer_a_torch_file: "cannot be read",
    another_torch_file: "cannot be read",
    cut_the_metrics: "metrics.jsonl is not what it was",
    alter_the_metrics: "metrics.jsonl is not what it was",
    lose_the_metrics: "metrics.jsonl is not what it was",
    another_torch: "made with other versions",
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_a_checkpoint_that_cannot_be_trusted_is_named_and_not_used(
    cut: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(cut.path)
    facts = Checkpoint.read(folder.path / CHECKPOINT).facts
    assert CheckpointManager(folder, facts, None).find() is not None
    damage(folder.path / CHECKPOINT)
    assert CheckpointManager(folder, facts, None).find() is None
    said = capsys.readouterr().err
    assert f"{CHECKPOINT} is of no use" in said
    assert reason in said
    assert not Path("pwned").exists()


def test_without_a_checkpoint_that_can_be_used_the_run_starts_again(
    cut: RunConfig, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_a_bit(cut.path / CHECKPOINT)
    done = steps_logged(monkeypatch)
    assert contents(experiment.run(cut)) == whole
    assert done == [1, 2, 3, 4, 5, 6]


@pytest.mark.faults
def test_a_checkpoint_of_other_code_is_not_used(
    cut: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "code_sha256", lambda: "0" * 64)
    done = steps_logged(monkeypatch)
    experiment.run(cut)
    assert "made with other code" in capsys.readouterr().err
    assert done[0] == 1


@pytest.mark.faults
def test_a_checkpoint_of_another_machine_is_used_with_a_warning(
    cut: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = describe_machine
    monkeypatch.setattr(reopen, "describe_machine", lambda device: usual(device) | {"cores": 999})
    done = steps_logged(monkeypatch)
    experiment.run(cut)
    assert "begun on another machine" in capsys.readouterr().err
    assert done[0] == 4


# ------------------------------------------------------------------------------------------- the file


def checkpoint(tensors: dict[str, torch.Tensor], **run: Any) -> Checkpoint:
    return Checkpoint(3, {}, run, {}, tensors, {"state": {}}, {}, {})


def bits(tensor: torch.Tensor) -> list[int]:
    content: list[int] = tensor.reshape(-1).view(torch.uint8).tolist()
    return content


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    tensors = {
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
        "scalar": torch.tensor(3.0),
        "half": torch.randn(3, 5).bfloat16(),
        "none": torch.empty(0),
    }
    checkpoint(tensors, rate=0.1 + 0.2, words=["é"]).write(tmp_path / "a")
    found = Checkpoint.read(tmp_path / "a")
    assert found.run == {"rate": 0.1 + 0.2, "words": ["é"]}
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert bits(found.tensors[name]) == bits(tensor)


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    replace(checkpoint({}), random=_random_states()).write(tmp_path / "a")
    drawn = [(random.gauss(0, 1), np.random.standard_normal(), torch.rand(3).tolist()) for _ in range(2)]
    _set_random_states(Checkpoint.read(tmp_path / "a").random)
    assert drawn == [
        (random.gauss(0, 1), np.random.standard_normal(), torch.rand(3).tolist()) for _ in range(2)
    ]


@pytest.mark.parametrize("place", range(0, 1000, 37))
def test_a_bit_that_is_flipped_anywhere_is_noticed_or_changes_nothing(tmp_path: Path, place: int) -> None:
    file = tmp_path / "a"
    tensor, words = torch.arange(100.0), list(range(50))
    checkpoint({"a": tensor}, words=words).write(file)
    content = bytearray(file.read_bytes())
    content[place * len(content) // 1000] ^= 4
    file.write_bytes(content)
    try:
        found = Checkpoint.read(file)
    except Unusable:
        return
    assert (bits(found.tensors["a"]), found.run) == (bits(tensor), {"words": words})  # it was in the padding


def test_every_bit_of_a_tensor_is_under_the_checksum(tmp_path: Path) -> None:
    file = tmp_path / "a"
    tensor = torch.arange(100.0)
    checkpoint({"a": tensor}).write(file)
    content = file.read_bytes()
    begin = content.index(bytes(bits(tensor)))
    for place in range(begin, begin + tensor.nbytes, 13):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(Unusable, match="checksum is wrong"):
            Checkpoint.read(file)


def test_a_file_that_does_not_fit_says_so_and_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "a"
    checkpoint({}, words="old").write(file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        with pytest.raises(OSError, match="too large"):
            checkpoint({"a": torch.zeros(1 << 18)}).write(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert Checkpoint.read(file).run == {"words": "old"}


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    whole: dict[str, Any],
    tiny_run: RunFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert contents(experiment.run(tiny_run(*STEPS))) == whole
    assert "step 6: no checkpoint could be written" in capsys.readouterr().err


def test_by_default_checkpoints_cost_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    manager = CheckpointManager(RunFolder(load_run(["model=tiny", f"results_dir={tmp_path}"]).path), {}, None)
    manager.optimizer = torch.optim.SGD([torch.zeros(1)])
    saved: list[float] = []

    def save(_: int) -> None:
        saved.append(now[0])
        now[0] += 10
        manager.written, manager.cost = now[0], 10.0

    monkeypatch.setattr(manager, "save", save)
    for step in range(200):
        now[0] += 7
        manager.after(step)
    assert saved[0] == 63
    assert 0.04 < 10 * len(saved) / now[0] <= 0.05


@pytest.mark.parametrize(("size", "first"), [(0, 63), (3e8, 63), (3e9, 203)])
def test_the_first_checkpoint_waits_by_its_size(
    size: float, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    large = {"all": torch.empty(int(size), dtype=torch.uint8, device="meta")}
    folder = RunFolder(load_run(["model=tiny", f"results_dir={tmp_path}"]).path)
    manager = CheckpointManager(folder, {}, None, lambda: large)
    manager.optimizer = torch.optim.SGD([torch.zeros(1)])
    saved: list[float] = []
    monkeypatch.setattr(manager, "save", lambda _: saved.append(now[0]))
    while not saved:
        now[0] += 7
        manager.after(1)
    assert saved == [first]


@pytest.mark.parametrize(("before", "after"), [(0, 1), (0, 2), (1, 2), (2, 1), (8, 1)])
def test_the_number_of_cards_may_change(before: int, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {card: torch.tensor([card]) for card in range(after)}

    def put(state: torch.Tensor, card: int = 0) -> None:
        assert card < after
        states[card] = state

    monkeypatch.setattr("torch.cuda.random.set_rng_state", put)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_rng_state_all", lambda: [torch.tensor([10 + i]) for i in range(before)]
    )
    found = _random_states()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: after)
    _set_random_states(found)
    both = min(before, after)
    assert [int(s) for s in states.values()] == [*range(10, 10 + both), *range(both, after)]
