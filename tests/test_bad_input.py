"""Whatever is offered to gdo is either used as it is meant or refused in one line that says what is wrong:
no traceback, nothing run, nothing written outside its place."""

from __future__ import annotations

import json
import pickle
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from gdo_cli.cli.app import app

TRAIN = "train model=tiny data=sample train.steps=1"
OWN = f"{TRAIN} task=jsonl task.path=rows.jsonl 'task.prompt=\"{{q}}\"' 'task.completion=\"{{a}}\"'"
ALL, EACH = "{train: all, validation: all, test: all}", "{train: train, validation: validation, test: test}"
OWN += f" 'task.dataset.splits={ALL}'"
SPLITS = ("train", "validation", "test")
CHAT = f"{TRAIN} task=jsonl task.path=rows.jsonl 'task.dataset.splits={ALL}'"
RUN = "runs/tiny/scitail/g_freeze-00000000/seed0"
GOOD = {"q": "What?", "a": "this"}


class Malice:
    """Unpickling it leaves a file behind."""

    def __reduce__(self) -> Any:
        return Path.write_text, (Path("pwned"), "x")


@dataclass(frozen=True)
class Case:
    """What is offered, and how it is answered.

    Attributes:
        words: the command line.
        message: what its one line must hold.
        files: what lies in the folder it is run in; bytes, or a function that writes the file.
        code: the exit code.
    """

    name: str
    words: str
    message: str
    files: dict[str, bytes | Callable[[Path], object]] | None = None
    code: int = 2


def rows(*lines: object) -> dict[str, Any]:
    """A file of JSON Lines; what is bytes already stays as it is."""
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return {"rows.jsonl": b"".join(line + b"\n" for line in encoded)}


def yaml(content: bytes, file: str = "own/train/mine.yaml") -> dict[str, Any]:
    return {file: content}


def task_data(*lines: object, task: str = "qasc") -> dict[str, Any]:
    content = rows(*lines)["rows.jsonl"]
    return {f"data/{task}/{split}.jsonl": content for split in ("train", "validation", "test")}


def result(**changes: Any) -> dict[str, Any]:
    record = {
        "id": "00000000",
        "seed": 0,
        "name": {"model": "tiny", "task": "scitail", "method": "g_freeze"},
        "final": {},
    }
    record |= {"overrides": ["model=tiny"], "method_label": "x", "layers": {"chosen": "all"}}
    return {f"results/{RUN}/result.json": json.dumps(record | changes).encode()}


def model_folder(**files: bytes | Callable[[Path], object]) -> dict[str, Any]:
    return {f"model/{name.replace('__', '.')}": content for name, content in files.items()}


CUSTOM = "train model=custom model.path=model data=sample train.steps=1"
MINE = "train model=tiny data=sample --config-dir own train=mine"
LOCAL = "train model=tiny data=local data.dir=data task=qasc train.steps=1"
LOCAL += f" 'task.dataset.splits={EACH}'"
_QASC = {"question": "Q?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "A"}
_QASC |= {"fact1": "f", "fact2": "g", "combinedfact": "h"}

CASES = [
    # words
    Case("rate_not_a_number", f"{TRAIN} train.lr=fast", "train.lr=fast: must be a number"),
    Case("rate_nan", f"{TRAIN} train.lr=nan", "train.lr=nan"),
    Case("negative_checkpoints", f"{TRAIN} train.checkpoint_every=-1", "train.checkpoint_every=-1"),
    Case("huge_seed", f"{TRAIN} seed=99999999999999999999999", "seed=99999999999999999999999"),
    Case("repeated_layer", f"{TRAIN} layers=[1,1]", "a layer is named twice"),
    Case("unknown_layer", f"{TRAIN} layers=[99]", "no layer 99; the model has layers 0 to 3"),
    Case("null_byte", f"{TRAIN} 'task.dataset.name=a\0b'", ""),
    Case("control_characters", f"{TRAIN} 'method=\x1b[31mred'", ""),
    Case("override_bomb", f"{TRAIN} 'layers={'[' * 500}'", "not an override"),
    Case("interpolation_into_nothing", f"{TRAIN} 'results_dir=${{nosuch.key}}'", "nosuch"),
    Case("interpolation_in_a_circle", f"{TRAIN} 'results_dir=${{results_dir}}'", "Recursive interpolation"),
    Case("calling_a_function", f"{TRAIN} task._target_=os.system", "not a dataclass derived from Task"),
    Case("calling_a_constructor", f"{TRAIN} method._target_=subprocess.Popen", "not a dataclass"),
    Case("resolver_that_is_none", f"{TRAIN} 'results_dir=${{shell:id}}'", "shell"),
    # names that lead elsewhere
    Case("model_outside", "train model=../../../../etc/passwd data=sample train.steps=1", "model="),
    Case("task_outside", f"{TRAIN} task=../task/scitail", "task=../task/scitail"),
    Case("method_outside", f"{TRAIN} method=/etc/passwd", "method="),
    Case("experiment_outside", f"{TRAIN} experiment=../../README", "experiment="),
    Case("data_outside", "train model=tiny data=local data.dir=data task.dataset.name=../secret",
         "dataset.name=../secret",
         {"data/x": b"", "secret/train.jsonl": b"{}\n"}),
    Case("data_absolute", "train model=tiny data=sample task.dataset.name=/etc", "dataset.name=/etc"),
    Case("split_outside", f"{TRAIN} 'task.dataset.splits={{train: \"../x\"}}'", "split"),
    Case("run_outside", "show ../../../../etc/passwd", "no finished run"),
    Case("probe_outside", "evaluate model=tiny --probe ../task/scitail", "--probe=../task/scitail: unknown"),
    # YAML of the user's own
    Case("yaml_broken", MINE, "YAML", yaml(b"steps: [1,\n")),
    Case("yaml_tab", MINE, "YAML", yaml(b"a:\n\t- b\n")),
    Case("yaml_twice_the_same_key", MINE, "", yaml(b"defaults: [default]\nsteps: 1\nsteps: 2\n")),
    Case("yaml_empty", MINE, "", yaml(b"")),
    Case("yaml_list", MINE, "", yaml(b"- 1\n- 2\n")),
    Case("yaml_text", MINE, "", yaml(b"just words\n")),
    Case("yaml_binary", MINE, "YAML", yaml(bytes(range(256)))),
    Case("yaml_latin_1", MINE, "", yaml("# é\nsteps: 1\n".encode("latin-1"))),
    Case("yaml_utf_16", MINE, "", yaml("defaults: [default]\nlr: fast\n".encode("utf-16"))),
    Case("yaml_object", MINE, "", yaml(b"steps: !!python/object/apply:os.system [touch pwned]\n")),
    Case("yaml_circle", MINE, "", yaml(b"defaults: [mine]\n")),
    Case("yaml_unknown_key", MINE, "train.stepz: no such key; did you mean 'steps'?",
         yaml(b"defaults: [default]\nstepz: 1\n")),
    Case("yaml_wrong_type", MINE, "train.steps=many: must be a whole number",
         yaml(b"defaults: [default]\nsteps: many\n")),
    Case("yaml_target", f"{TRAIN} --config-dir own task=mine", "not a dataclass derived from Task",
         yaml(b"_target_: os.system\n", "own/task/mine.yaml")),
    Case("yaml_no_target", f"{TRAIN} --config-dir own task=mine", "task",
         yaml(b"a: 1\n", "own/task/mine.yaml")),
    Case("config_dir_is_a_file", f"{TRAIN} --config-dir own", "--config-dir own: no such directory",
         {"own": b""}),
    # JSON Lines
    Case("rows_missing", OWN, "task.path=rows.jsonl: no such file or folder"),
    Case("rows_empty", OWN, "holds no rows", rows()),
    Case("rows_blank", OWN, "holds no rows", {"rows.jsonl": b"\n \n\r\n"}),
    Case("rows_folder_without_files", OWN, "no such file", {"rows.jsonl/x.txt": b""}),
    Case("rows_binary", OWN, "rows.jsonl:1: not", {"rows.jsonl": bytes(range(256)) * 10}),
    Case("rows_zeros", OWN, "rows.jsonl:1: not JSON", {"rows.jsonl": bytes(10_000)}),
    Case("rows_utf_16", OWN, "not UTF-8", {"rows.jsonl": json.dumps(GOOD).encode("utf-16")}),
    Case("rows_latin_1", OWN, "rows.jsonl:2: not UTF-8",
         rows(GOOD, '{"q": "é", "a": "x"}'.encode("latin-1"))),
    Case("rows_byte_order_mark", OWN, "rows.jsonl:1",
         {"rows.jsonl": b"\xef\xbb\xbf" + json.dumps(GOOD).encode()}),
    Case("rows_array", OWN, "rows.jsonl:1: not", {"rows.jsonl": json.dumps([GOOD, GOOD], indent=1).encode()}),
    Case("rows_pretty_printed", OWN, "not JSON", {"rows.jsonl": json.dumps(GOOD, indent=1).encode()}),
    Case("rows_csv", OWN, "not JSON", {"rows.jsonl": b"q,a\nWhat?,this\n"}),
    Case("rows_cut_short", OWN, "rows.jsonl:2: not JSON", rows(GOOD, b'{"q": "Wh')),
    Case("rows_duplicate_keys", OWN, "a key stands twice", rows(GOOD, b'{"q": "a", "q": "b", "a": "c"}')),
    Case("rows_deep", OWN, "rows.jsonl:2", rows(GOOD, b'{"q":' * 100_000)),
    Case("rows_huge_number", OWN, "rows.jsonl:2", rows(GOOD, b'{"q": ' + b"9" * 10_000 + b"}")),
    Case("rows_nan", OWN, "rows.jsonl:2", rows(GOOD, b'{"q": NaN, "a": "x"}')),
    Case("rows_half_a_character", OWN, "half of a surrogate pair", rows(GOOD, b'{"q": "\\ud800", "a": "x"}')),
    Case("rows_huge_line", OWN.replace("rows.jsonl", "rows").replace(ALL, EACH),
         "longer than train.max_length",
         {f"rows/{name}.jsonl": rows({"q": "word " * 400_000, "a": "x"})["rows.jsonl"] for name in SPLITS}),
    Case("rows_in_two_splits", OWN, "1 of its 1 rows are rows of task.dataset.splits.train, too", rows(GOOD)),
    Case("rows_field_missing", OWN, "field 'a' is missing", rows({"q": "What?"})),
    Case("rows_field_empty", OWN, "field 'a' is empty", rows({"q": "What?", "a": " "})),
    Case("rows_field_null", OWN, "field 'a' is missing", rows({"q": "What?", "a": None})),
    Case("rows_field_list", OWN, "field 'q' is no text", rows({"q": ["What?"], "a": "x"})),
    Case("rows_several_lines", OWN, "several lines", rows({"q": "What?", "a": "x\ny"})),
    Case("rows_no_chat", f"{CHAT} task.messages=chat", "field 'chat' needs a list", rows(GOOD)),
    Case("rows_wrong_label", LOCAL, "answerKey", task_data(_QASC | {"answerKey": "Z"})),
    Case("rows_option_twice", LOCAL, "names an option twice",
         task_data(_QASC | {"choices": {"label": ["A", "A"], "text": ["x", "y"]}})),
    Case("rows_options_uneven", LOCAL, "of the same length",
         task_data(_QASC | {"choices": {"label": ["A"], "text": ["x", "y"]}})),
    Case("data_missing", LOCAL, "data.dir=data: no such folder"),
    Case("data_a_file", LOCAL, "data.dir=data: no such folder", {"data": b""}),
    # weights
    Case("model_empty", CUSTOM, "no *.safetensors", model_folder(x__txt=b"")),
    Case("model_pickle", CUSTOM, "no *.safetensors", model_folder(
        config__json=b"{}", pytorch_model__bin=lambda file: file.write_bytes(pickle.dumps(Malice())))),
    Case("model_torch_file", CUSTOM, "no *.safetensors", model_folder(
        config__json=b"{}", pytorch_model__bin=lambda file: torch.save(Malice(), file))),
    Case("model_pickle_by_another_name", CUSTOM, "cannot be loaded", model_folder(
        config__json=b'{"model_type": "llama"}',
        model__safetensors=lambda file: file.write_bytes(pickle.dumps(Malice())))),
    Case("model_no_config", CUSTOM, "cannot be loaded", model_folder(
        model__safetensors=lambda file: save_file({"a": torch.ones(1)}, file))),
    Case("model_config_broken", CUSTOM, "cannot be loaded", model_folder(
        config__json=b"{", model__safetensors=lambda file: save_file({"a": torch.ones(1)}, file))),
    Case("model_config_list", CUSTOM, "cannot be loaded", model_folder(
        config__json=b"[]", tokenizer__json=b"{}",
        model__safetensors=lambda file: save_file({"a": torch.ones(1)}, file))),
    Case("model_own_code", CUSTOM, "cannot be loaded", model_folder(
        config__json=b'{"model_type": "mine", "auto_map": {"AutoConfig": "code.C"}}',
        code__py=b"open('pwned', 'w')\n",
        model__safetensors=lambda file: save_file({"a": torch.ones(1)}, file))),
    Case("model_cut_short", CUSTOM, "cannot be loaded", model_folder(
        config__json=b'{"model_type": "llama"}', model__safetensors=b"\x10\0\0\0\0\0\0\0{")),
    # finished runs
    Case("result_empty", "show seed0", "result.json: cannot be read", {f"results/{RUN}/result.json": b""}),
    Case("result_cut_short", "show seed0", "result.json: cannot be read",
         {f"results/{RUN}/result.json": b'{"id": '}),
    Case("result_of_something_else", "show seed0", "not the record of a run",
         {f"results/{RUN}/result.json": b'{"a": 1}'}),
    Case("result_wrong_types", "show seed0", "result.json", result(name=[], final="x", seed="y")),
    Case("result_half", "show seed0", "result.json", result()),
    Case("run_unknown", "evaluate nosuch", "no finished run 'nosuch'"),
    Case("two_runs", "evaluate one two", "one run at a time"),
    Case("unknown_format", "ls --format xml", "--format=xml"),
    Case("negative_items", "evaluate model=tiny --items -3", "items"),
    Case("no_prompt", "generate model=tiny", "no prompt"),
]  # fmt: skip


def test_there_are_enough_of_them() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


# A quarter of them in `make test`, the rest in `make test-faults`.
@pytest.mark.few(8)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.faults] if n % 4 else [])
        for n, case in enumerate(CASES)
    ],
)
def test_bad_input_is_refused_in_one_line(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GDO_DATA_DIR", "GDO_RESULTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, content in (case.files or {}).items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content) if isinstance(content, bytes) else content(file)
    answer = CliRunner().invoke(app, shlex.split(case.words))
    said = answer.stderr.strip().splitlines()
    errors = [line for line in said if line.startswith(("error: ", "failed: "))]
    assert answer.exit_code == case.code, (answer.exception, answer.stdout, said)
    assert isinstance(answer.exception, SystemExit)
    assert said[-1:] == errors
    assert case.message in errors[0]
    assert "\x1b" not in errors[0]
    assert not Path("pwned").exists()
    assert not list(tmp_path.rglob("result.json")) or case.words.split()[0] != "train"
