"""Claims about run folders: whole or absent, one writer each, found by name; and about their mirror."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import recorded
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment.tracking import Mirror
from gdo_cli.runs.find import find_run, find_runs
from gdo_cli.runs.folder import Busy, RunFolder
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import WEIGHTS, RunResult, read_run
from gdo_cli.support.errors import UserError
from gdo_cli.support.files import write_atomically
from gdo_cli.support.identity import identity

WORDS = ["model=tiny", "method=sft", "data=sample"]
LETTER, TEXT = (["task=qasc", f"task.answer={answer}"] for answer in ("letter", "text"))


def configure(results: Path, *words: str) -> RunConfig:
    return load_run([*WORDS, f"results_dir={results}", *words])


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return configure(tmp_path)


@pytest.fixture
def folder(config: RunConfig) -> RunFolder:
    """A run that has been started."""
    folder = RunFolder(config.path)
    with folder.lock():
        folder.start({"name": config.name} | identity(config))
    return folder


def record(config: RunConfig) -> dict[str, Any]:
    """What a run writes at its end, as far as it is read again."""
    return {
        "id": config.id,
        "seed": config.seed,
        "method_label": config.method.label,
        "name": config.name,
        "overrides": config.overrides,
        "config": identity(config),
        "final": {"task/exact_match": 0.75, "task/exact_match_se": 0.125, "winogrande/exact_match": 0.5},
        "steps": 4,
        "layers": {"choice": "all"},
        "parameters": {
            "base": 1_000,
            "added": 0,
            "trainable": 1_000,
            "trainable_share": 1.0,
            "trainable_by_module": {"gate_proj": 600, "down_proj": 400},
        },
        "data": {"source": "sample", "validation_items": 8, "test_items": 8},
        "weights": {"source": "random"},
        "precision": "float32",
        "wall_seconds": 90.0,
        "train_seconds": 60.0,
        "tokens_per_second": 1_234,
        "peak_memory_bytes": 2**30,
        "machine": {"gpu": None, "cpu": "A processor", "cores": 2},
        "versions": {"torch": "2.9"},
        "code": {"commit": "0123456789abcdef", "dirty": True},
    }


def finish(results: Path, *words: str) -> RunResult:
    """A finished run under the results folder."""
    config = configure(results, *words)
    folder = RunFolder(config.path)
    with folder.lock():
        folder.start({})
        folder.log({"kind": "train", "step": 1, "loss": 2.0})
        folder.log({"kind": "evaluation", "step": 0, "task/exact_match": 0.25})
        return folder.seal(recorded(record(config)))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in a folder."""
    return RunResult(folder, recorded({})).metrics


# --------------------------------------------------------------------------------------- whole or not


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "é\n".encode())
    assert file.read_bytes() == "é\n".encode()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "a.json"
    write_atomically(file, b"old")
    monkeypatch.setattr(os, "fsync", crash) if at == "fsync" else monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    assert file.read_text() == "old"


def test_what_a_crash_leaves_beside_is_no_hindrance(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    (tmp_path / ".a.json.tmp").write_text("half of")
    write_atomically(file, b"new")
    assert file.read_text() == "new"


def test_a_run_is_complete_when_it_is_sealed_and_not_before(folder: RunFolder, config: RunConfig) -> None:
    folder.log({"kind": "train", "step": 1})
    folder.save_predictions([{"answer": "é"}])
    assert folder.load() is None
    folder.seal(recorded(record(config)))
    found = folder.load()
    assert found is not None
    assert found.record == recorded(record(config))


def test_equal_predictions_are_equal_bytes_and_come_back(folder: RunFolder) -> None:
    predictions: list[dict[str, Any]] = [{"answer": "é"}, {"answer": "line\u2028break", "right": True}]
    kept = []
    for _ in range(2):
        folder.save_predictions(predictions)
        kept.append((folder.path / "predictions.jsonl.gz").read_bytes())
    assert kept[0] == kept[1]
    lines = gzip.decompress(kept[0]).decode().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == predictions


def test_a_run_lies_under_its_model_task_method_and_seed(tmp_path: Path) -> None:
    config = configure(tmp_path, "seed=3")
    assert config.path == tmp_path / f"runs/tiny/scitail/sft-{config.id}/seed3"


def test_the_configuration_is_kept_as_plain_yaml(folder: RunFolder, config: RunConfig) -> None:
    kept = yaml.safe_load((folder.path / "config.yaml").read_text("utf-8"))
    assert kept == {"name": config.name} | identity(config)


def test_starting_again_drops_what_was_left_behind(folder: RunFolder, config: RunConfig) -> None:
    folder.log({"kind": "train", "step": 1})
    folder.seal(recorded(record(config)))
    (folder.path / "adapter").mkdir()
    (folder.path / "adapter" / "weights").touch()
    with folder.lock():
        folder.start({})
    assert {entry.name for entry in folder.path.iterdir()} == {".lock", "config.yaml"}
    assert folder.load() is None


def test_a_result_tells_what_it_is(tmp_path: Path) -> None:
    run = finish(tmp_path, "seed=2")
    assert (run.seed, run.label, run.final["task/exact_match"]) == (2, "SFT", 0.75)
    assert run.title == f"scitail/sft-{run.id}/seed2"
    assert [line["step"] for line in run.evaluations] == [0]


@pytest.mark.parametrize(
    ("of_steps", "expected"),
    [
        ([1.0], 1.0),  # nothing was trained
        ([1.0, 0.25, 0.75], 0.5),
        ([0.0, 1.0, 0.25, 0.25, 0.25], 0.25),
    ],
)
@pytest.mark.parametrize(("name", "sign"), [("exact_match", 1), ("bleu", 1), ("loss", -1)])
def test_settings_are_chosen_by_the_last_three_evaluations_of_the_training(
    folder: RunFolder, config: RunConfig, of_steps: list[float], expected: float, name: str, sign: int
) -> None:
    for step, score in enumerate(of_steps):
        folder.log({"kind": "evaluation", "step": step, f"task/{name}": score, "task/loss": score})
        folder.log({"kind": "train", "step": step, "loss": 9.0})
    run = folder.seal(recorded(record(config) | {"final": {f"task/{name}": 7.0, "task/loss": 7.0}}))
    assert run.validation_score == sign * expected


@pytest.mark.parametrize(("schedule", "expected"), [("constant", 0.5), ("linear", 1.0), ("cosine", 1.0)])
def test_where_the_rate_decays_to_zero_the_last_evaluation_chooses(
    folder: RunFolder, config: RunConfig, schedule: str, expected: float
) -> None:
    for step, score in enumerate([0.0, 0.25, 0.25, 1.0]):
        folder.log({"kind": "evaluation", "step": step, "task/exact_match": score})
    settings = {"config": {"train": {"lr_scheduler": schedule}}}
    run = folder.seal(recorded(record(config) | settings | {"final": {"task/exact_match": 7.0}}))
    assert run.validation_score == expected


def test_a_result_without_evaluations_says_so(folder: RunFolder, config: RunConfig) -> None:
    run = folder.seal(recorded(record(config)))
    with pytest.raises(UserError, match=r"metrics.jsonl: holds no evaluation; run it again: gdo"):
        _ = run.validation_score


def test_a_run_is_found_beside_one_that_cannot_be_read(tmp_path: Path) -> None:
    broken, whole = finish(tmp_path, "method=g_freeze"), finish(tmp_path)
    (broken.path / "result.json").write_text("{")
    assert find_run(whole.title, tmp_path).title == whole.title
    assert find_run("sft-", tmp_path).title == whole.title
    with pytest.raises(UserError, match=r"g_freeze-.*/seed0/result\.json: cannot be read"):
        find_run("g_freeze", tmp_path)


def test_a_result_that_is_not_whole_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    file = finish(tmp_path).path / "result.json"
    content = json.loads(file.read_text("utf-8"))
    del content["parameters"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"seed0/result\.json: cannot be read \(no parameters\)"):
        read_run(file.parent)


def test_a_setting_that_no_run_has_is_named(tmp_path: Path) -> None:
    run = finish(tmp_path)
    assert run.setting("train.lr") == run.record.config["train"]["lr"]
    assert run.setting("task") == run.name["task"]
    with pytest.raises(UserError, match=r"no setting 'train\.rate' to tell runs apart by; .*train\.lr"):
        run.setting("train.rate")


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_result_knows_where_its_weights_are(tmp_path: Path, name: str) -> None:
    run = finish(tmp_path)
    assert run.weights is None
    (run.path / name).mkdir()
    assert run.weights == run.path / name


# ------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("torn", ['{"step": 3', '{"step": 3, "loss": 1.0}', "{", '{"step": "\ud7ff"'])
def test_a_line_cut_off_by_a_crash_is_left_out(folder: RunFolder, torn: str) -> None:
    folder.log({"step": 1})
    folder.log({"step": 2})
    with (folder.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(torn)
    assert metrics(folder.path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", [b"nonsense", b"3", b"[]", b"\xff"])
def test_metrics_that_cannot_be_read_are_named_with_the_mend(folder: RunFolder, line: bytes) -> None:
    (folder.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be read .* gdo train --force"):
        metrics(folder.path)


def test_a_failure_is_marked_until_the_run_goes_on(folder: RunFolder) -> None:
    assert folder.failure() is None
    folder.fail("step 3: the loss is nan")
    assert folder.failure() == "step 3: the loss is nan"
    with folder.lock():
        folder.start({})
    assert folder.failure() is None


def test_files_that_a_kill_cut_off_do_not_stay(folder: RunFolder, config: RunConfig) -> None:
    (folder.path / "adapter").mkdir()
    halves = [folder.path / name for name in (".a.json.tmp", ".tmpLnFmgX", "adapter/.tmpXi5IS8")]
    for half in halves:
        half.touch()
    folder.seal(recorded(record(config)))
    assert not any(half.exists() for half in halves)


def test_without_metrics_there_are_none(tmp_path: Path) -> None:
    assert metrics(tmp_path) == []


def test_numbers_come_back_as_they_were(folder: RunFolder) -> None:
    line = {"loss": 0.1 + 0.2, "lr": 1e-300, "steps": 2**53 + 1, "text": "é\n\u2028"}
    folder.log(line)
    assert metrics(folder.path) == [line]


# ------------------------------------------------------------------------------------------- corrupt


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null"], ids=str)
def test_a_corrupt_result_is_named_with_the_mend(folder: RunFolder, content: bytes) -> None:
    (folder.path / "result.json").write_bytes(content)
    with pytest.raises(UserError, match=r"result\.json: cannot be read .* remove it to run again"):
        folder.load()


def test_a_result_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"result\.json: cannot be read"):
        read_run(tmp_path)


# ---------------------------------------------------------------------------------------------- lock


def test_a_run_has_one_writer(folder: RunFolder) -> None:
    busy = pytest.raises(Busy, match="another process is working on this run")
    with folder.lock(), busy, folder.lock():
        pass
    with folder.lock():
        pass


def test_another_process_is_kept_out(folder: RunFolder, config: RunConfig) -> None:
    code = (
        "import sys; from gdo_cli.config.build import load_run; from gdo_cli.runs.folder import RunFolder\n"
        "with RunFolder(load_run(sys.argv[1:]).path).lock(): pass"
    )
    command = [sys.executable, "-c", code, *config.overrides]
    with folder.lock():
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "another process is working on this run" in done.stderr


def test_seeds_do_not_lock_each_other(tmp_path: Path) -> None:
    with RunFolder(configure(tmp_path).path).lock(), RunFolder(configure(tmp_path, "seed=1").path).lock():
        pass


def test_the_lock_is_free_after_a_crash(folder: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), folder.lock():
        raise ZeroDivisionError
    with folder.lock():
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(folder: RunFolder) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gdo_cli.runs.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, folder.path], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert folder.is_held()
        other.kill()
    assert not folder.is_held()
    with folder.lock():
        pass


def test_asking_for_the_lock_makes_no_folder(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path / "none").is_held()
    assert not (tmp_path / "none").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = RunFolder(configure(tmp_path / "file").path)
    with pytest.raises(UserError, match="cannot be written"), folder.lock():
        pass


# ------------------------------------------------------------------------------------------- finding


def test_only_finished_runs_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    done = [
        finish(tmp_path, f"seed={seed}", f"task={task}") for task in ("scitail", "qasc") for seed in (1, 0)
    ]
    unfinished = RunFolder(configure(tmp_path, "seed=7").path)
    with unfinished.lock():
        unfinished.start({})
    found = find_runs(tmp_path)
    assert [run.path for run in found] == sorted(run.path for run in done)


def test_where_nothing_was_run_nothing_is_found(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "nowhere") == []


@pytest.fixture
def three(tmp_path: Path) -> list[RunResult]:
    """Runs of two tasks, one of them with seeds 1 and 10."""
    return [finish(tmp_path, *words) for words in (["seed=1"], ["seed=10"], ["task=qasc", "seed=10"])]


def test_a_run_is_found_by_its_path(three: list[RunResult], tmp_path: Path) -> None:
    assert find_run(str(three[0].path), tmp_path / "elsewhere").record == three[0].record


@pytest.mark.parametrize("fragment", ["qasc", "qasc/sft", "tiny/qasc"])
def test_a_run_is_found_by_a_part_of_its_name(three: list[RunResult], tmp_path: Path, fragment: str) -> None:
    assert find_run(fragment, tmp_path).record == three[2].record


def test_a_run_is_found_by_its_id(three: list[RunResult], tmp_path: Path) -> None:
    assert find_run(three[2].id, tmp_path).record == three[2].record


def test_a_run_is_found_by_its_title_even_if_others_begin_with_it(
    three: list[RunResult], tmp_path: Path
) -> None:
    assert find_run(three[0].title, tmp_path).seed == 1


def test_a_part_that_several_runs_share_is_refused_with_their_names(
    three: list[RunResult], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        find_run("seed10", tmp_path)
    message = str(caught.value)
    assert message.startswith("'seed10' names 2 runs: ")
    assert three[1].title in message
    assert three[2].title in message


def test_a_name_that_no_run_has_is_refused_with_the_nearest(three: list[RunResult], tmp_path: Path) -> None:
    near = three[2].title.replace("qasc", "qsac")
    hint = rf"did you mean '{three[2].title}'\? gdo ls lists all 3$"
    with pytest.raises(UserError, match=f"no finished run '{near}' .* {hint}"):
        find_run(near, tmp_path)


def test_without_runs_there_is_nothing_to_suggest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no finished run 'qasc' .*nothing to choose from"):
        find_run("qasc", tmp_path)


def test_namesakes_are_told_apart_by_what_most_of_them_have_not(tmp_path: Path) -> None:
    clip, decay = "train.max_grad_norm=1", "train.weight_decay=0.5"
    three = [finish(tmp_path, "method=g_freeze", *own) for own in ([], [clip], [decay, clip])]
    two = [finish(tmp_path, "method=sft", *own) for own in ([], [decay])]
    assert [*distinct_names([*three, *two]).values()] == [
        "G-Freeze, max_grad_norm=None",
        "G-Freeze",
        "G-Freeze, weight_decay=0.5",
        "SFT, weight_decay=0.0",
        "SFT, weight_decay=0.5",
    ]


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (["task=qasc"], ["task=scitail", "task=qasc"]),
        (["model=gemma3_270m", "train.lr=1e-3", "train.warmup_steps=0"], ["model=tiny", "model=gemma3_270m"]),
        (["layers=1"], ["layers=all", "layers=1"]),
        (["layers=1", "layer_rule=worst"], ["layers=all, layer_rule=pilot", "layers=1, layer_rule=worst"]),
    ],
)
def test_namesakes_of_another_task_model_or_layers_say_so(
    own: list[str], told: list[str], tmp_path: Path
) -> None:
    pair = [finish(tmp_path, "task=scitail", "method=g_freeze", *words) for words in ([], own)]
    assert [*distinct_names(pair).values()] == [f"G-Freeze, {text}" for text in told]


def test_what_a_task_is_asked_for_is_told_where_all_have_it(tmp_path: Path) -> None:
    scitail, letter, text = (finish(tmp_path, *w) for w in (["task=scitail"], LETTER, TEXT))
    assert [*distinct_names([letter, text]).values()] == ["SFT, answer=letter", "SFT, answer=text"]
    assert [*distinct_names([scitail, letter]).values()] == ["SFT, task=scitail", "SFT, task=qasc"]


def test_namesakes_that_differ_in_nothing_that_is_told_have_their_id(tmp_path: Path) -> None:
    pair = [finish(tmp_path, "method=sft", *own) for own in ([], ["evaluation.items=3"])]
    assert [*distinct_names(pair).values()] == [f"SFT, {found.id}" for found in pair]


def test_the_options_of_an_adapter_tell_it_apart(tmp_path: Path) -> None:
    pair = [finish(tmp_path, "method=lora", *own) for own in ([], ["method.options.r=3"])]
    assert [*distinct_names(pair).values()] == ["LoRA, r=16", "LoRA, r=3"]


# -------------------------------------------------------------------------------------------- listing


def gdo(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.usefixtures("three")
def test_ls_is_a_line_for_each_finished_run(tmp_path: Path) -> None:
    header, *lines = gdo("ls", "--results", str(tmp_path)).splitlines()
    assert header.split()[:3] == ["run", "model", "lr"]
    assert [line.split()[:2] for line in lines] == [[r.title, "tiny"] for r in find_runs(tmp_path)]
    assert all("0.750" in line for line in lines)


def test_ls_without_runs_says_how_to_start_one(tmp_path: Path) -> None:
    assert "gdo train" in gdo("ls", "--results", str(tmp_path))


def test_show_says_what_a_number_hangs_on(three: list[RunResult], tmp_path: Path) -> None:
    shown = gdo("show", "qasc", "--results", str(tmp_path))
    for fact in (three[2].title, "SFT", "sample", "0.750 ± 0.125", "0.250", "A processor", "float32", "lr="):
        assert fact in shown
    assert "0123456789ab with changes" in shown


@pytest.mark.parametrize(
    ("reference", "message"), [("seed10", "names 2 runs"), ("nosuch", "no finished run 'nosuch'")]
)
@pytest.mark.usefixtures("three")
def test_show_refuses_what_it_cannot_tell(tmp_path: Path, reference: str, message: str) -> None:
    result = CliRunner().invoke(app, ["show", reference, "--results", str(tmp_path)])
    assert result.exit_code == 2
    assert message in result.stderr


# --------------------------------------------------------------------------------------------- mirror

Log = list[tuple[Any, ...]]


def stand_in(log: Log, failing: str = "") -> SimpleNamespace:
    """Stands in for wandb: notes what it is asked for; the named part of it fails."""

    def part(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            log.append((name, *args, kwargs))
            if name == failing:
                raise RuntimeError(f"no {name}")
            return run

        return call

    run = SimpleNamespace(log=part("log"), finish=part("finish"))
    return SimpleNamespace(init=part("init"), Settings=part("settings"))


def mirrored(config: RunConfig, folder: Path) -> None:
    with Mirror(config, folder) as mirror:
        mirror.log(0, {"task/loss": 2.0})
        mirror.log(1, {"task/loss": 1.0})


@pytest.fixture
def mirrored_config(tmp_path: Path) -> RunConfig:
    return configure(tmp_path, "wandb.mode=offline", "wandb.project=mine", "seed=4")


def test_the_mirror_gets_the_numbers_by_step(
    mirrored_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: Log = []
    monkeypatch.setitem(sys.modules, "wandb", stand_in(log))
    mirrored(mirrored_config, tmp_path)
    steps = [(call[1], call[-1]) for call in log if call[0] == "log"]
    assert steps == [({"task/loss": 2.0}, {"step": 0}), ({"task/loss": 1.0}, {"step": 1})]
    (start,) = [call[-1] for call in log if call[0] == "init"]
    assert (start["mode"], start["project"]) == ("offline", "mine")
    assert start["id"] == f"{mirrored_config.id}-4"
    assert log[-1][0] == "finish"


@pytest.mark.parametrize("failing", ["settings", "init", "log", "finish"])
def test_a_mirror_that_fails_is_said_once_and_harms_nothing(
    mirrored_config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    failing: str,
) -> None:
    log: Log = []
    monkeypatch.setitem(sys.modules, "wandb", stand_in(log, failing))
    mirrored(mirrored_config, tmp_path)
    assert capfd.readouterr().err.count(f"wandb: RuntimeError: no {failing}") == 1
    assert [call[0] for call in log].count(failing) == 1


def test_a_mirror_that_is_not_installed_harms_nothing(
    mirrored_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    mirrored(mirrored_config, tmp_path)


def test_a_mirror_that_is_off_does_not_import_wandb(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise, and be said
    mirrored(config, tmp_path)
    assert capfd.readouterr().err == ""


def test_a_failure_of_the_run_passes_through_the_mirror(
    mirrored_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: Log = []
    monkeypatch.setitem(sys.modules, "wandb", stand_in(log))
    with pytest.raises(ZeroDivisionError), Mirror(mirrored_config, tmp_path):
        raise ZeroDivisionError
    assert log[-1][0] == "finish"


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:wandb")
@pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning")
def test_the_real_mirror_works_offline(
    mirrored_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    mirrored(mirrored_config, tmp_path)
    assert "warning" not in capfd.readouterr().err
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
