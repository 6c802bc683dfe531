"""The rows that are measured are those that are said: splits lie apart, and what is left out is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RUN, RunFactory
from datasets import Dataset as Arrow
from datasets import SplitDict, SplitInfo
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.config import DataConfig
from gdo_cli.data.dataset import Dataset, Split
from gdo_cli.data.hub import _places
from gdo_cli.data.overlap import repeated, require_apart, three_splits
from gdo_cli.data.rows import load_split
from gdo_cli.evaluation.run_data import RunData
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.figures.groups import sources
from gdo_cli.support.errors import RunFailed, UserError

Told = pytest.CaptureFixture[str]
SMALL = [word for word in TINY_RUN if not word.startswith("probe.")]
OWN = ("task=jsonl", "task.prompt='{q}'", "task.completion='{a}'", "probe=[]")


def write(file: Path, questions: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"q": q, "a": f"answer {n % 7}"} for n, q in enumerate(questions))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def asked(n: int, start: int = 0) -> list[str]:
    return [f"question {i}" for i in range(start, start + n)]


def config(path: Path, splits: str = "", *words: str) -> RunConfig:
    given = [f"task.dataset.splits={{{splits}}}"] if splits else []
    whole = ["evaluation.items=null", "evaluation.final_items=null"]
    return load_run(
        [
            *SMALL,
            *OWN,
            f"task.path={path}",
            f"results_dir={path.parent / 'results'}",
            *whole,
            *given,
            *words,
        ]
    )


def read(path: Path, splits: str = "", *words: str) -> RunData:
    return read_run_data(config(path, splits, *words))


# ------------------------------------------------------------------------------------------ by place

LAST = "validation: 'all[-400:-200]', test: 'all[-200:]'"
OVERLAPPING = {
    f"train: 'all[:-20]', {LAST}": ("validation", 100, 100),
    f"train: all, {LAST}": ("validation", 100, 100),
    "train: all, validation: all, test: all": ("validation", 300, 300),
    "train: 'all[:200]', validation: 'all[199:250]', test: 'all[250:]'": ("validation", 1, 51),
    "train: 'all[:200]', validation: 'all[200:250]', test: 'all[:1]'": ("test", 1, 1),
    "train: 'all[:200]', validation: 'all[200:250]', test: 'all[249:]'": ("test", 1, 51),
    "train: 'all[:200]', validation: 'all[200:]', test: 'all[200:]'": ("test", 100, 100),
    "train: 'all[:100]+all[290:]', validation: 'all[100:200]', test: 'all[200:]'": ("test", 10, 100),
    "train: 'mine[:200]', validation: 'mine[150:250]', test: 'all[250:]'": ("validation", 50, 100),
    "train: 'all[:-50]', validation: 'all[-100:-50]', test: 'all[-50:]'": ("validation", 50, 50),
}


@pytest.mark.few(4)
@pytest.mark.parametrize(("splits", "expected"), OVERLAPPING.items())
def test_rows_in_two_splits_are_refused_with_the_numbers(
    tmp_path: Path, splits: str, expected: tuple[str, int, int]
) -> None:
    file = write(tmp_path / "mine.jsonl", asked(300))
    role, shared, rows = expected
    with pytest.raises(
        UserError, match=rf"splits\.{role}: {shared} of its {rows} rows are rows of task"
    ) as told:
        read(file, splits)
    fix = re.search(r"'task\.dataset\.splits=\{(.*)\}'", str(told.value))
    assert fix is None or read(file, fix[1]).test
    assert fix or "+" in splits or "mine" in splits


@given(st.lists(st.integers(-25, 25), min_size=6, max_size=6))
@settings(deadline=None, max_examples=40)
def test_slices_are_refused_exactly_when_they_share_rows(
    tmp_path_factory: pytest.TempPathFactory, ends: list[int]
) -> None:
    file = write(tmp_path_factory.mktemp("slices") / "mine.jsonl", asked(20))
    dataset = Dataset(
        "x", {str(n): f"all[{ends[2 * n]}:{ends[2 * n + 1]}]" for n in range(3)}, path=str(file)
    )
    rows = [set(range(20)[ends[2 * n] : ends[2 * n + 1]]) for n in range(3)]
    if not all(rows):
        return
    first, *others = (load_split(dataset, str(n), DataConfig()) for n in range(3))
    shared = [len(rows[0] & of) for of in rows[1:]]
    if not any(shared):
        require_apart({"a": first}, {"b": others[0], "c": others[1]})
        return
    which = next(n for n, count in enumerate(shared) if count)
    with pytest.raises(
        UserError, match=f"^{'bc'[which]}: {shared[which]} of its {len(rows[which + 1])} rows"
    ):
        require_apart({"a": first}, {"b": others[0], "c": others[1]})


@pytest.mark.parametrize("n", [3, 4, 9, 10, 25, 300, 399, 400])
def test_what_a_message_proposes_for_a_small_file_works(tmp_path: Path, n: int) -> None:
    file = write(tmp_path / "mine.jsonl", asked(n))
    with pytest.raises(UserError, match=f"holds none of its {n} rows") as told:
        read(file)
    proposed = re.search(r"'task\.dataset\.splits=\{(.*)\}'", str(told.value))
    assert proposed
    assert three_splits("all", n) == proposed.group()
    found = read(file, proposed[1])
    assert len(found.train) + len(found.validation) + len(found.test) == n


@pytest.mark.parametrize("name", ["train", "test", "other"])
def test_one_file_has_no_splits_of_other_names(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "mine.jsonl", asked(30))
    with pytest.raises(UserError, match=f"one file has no '{name}'; its rows are 'all'"):
        read(file, f"train: '{name}[:10]', validation: 'all[10:20]', test: 'all[20:]'")


def test_a_file_under_two_names_is_one_file(tmp_path: Path) -> None:
    write(tmp_path / "d/train.jsonl", asked(30))
    write(tmp_path / "d/validation.jsonl", asked(30, 100))
    (tmp_path / "d/test.jsonl").symlink_to("train.jsonl")
    with pytest.raises(UserError, match=r"test: 30 of its 30 rows are rows of task\.dataset\.splits\.train"):
        read(tmp_path / "d", "train: train, validation: validation, test: test")


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (
            ["probe=[winogrande]", "probe.winogrande.dataset.splits.shots=validation"],
            "probe.winogrande.dataset.splits.eval",
        ),
        (
            ["probe=[perplexity]", "method=replay", "method.dataset.splits.replay=test"],
            "probe.perplexity.dataset.splits.eval",
        ),
    ],
)
def test_what_is_shown_or_rehearsed_is_not_asked(words: list[str], refused: str) -> None:
    run = load_run(["model=tiny", "data=sample", "task=scitail", *words])
    with pytest.raises(UserError, match=rf"{refused}: \d+ of its \d+ rows are rows of"):
        read_run_data(run)


def test_rows_of_the_hub_are_told_apart_by_their_place_in_the_whole_split() -> None:
    lengths = {"train": 1000, "test": 5}
    places = {
        spec: _places("org/x", spec, lengths, rows)
        for spec, rows in (
            ("train[:-500]", 500),
            ("train[-500:]", 500),
            ("train[:50%]", 500),
            ("test", 5),
            ("train[499:501]+test", 7),
        )
    }
    splits = {spec: Split([{}] * len(p), p, {"split": spec}) for spec, p in places.items()}
    for apart in (("train[:-500]", "train[-500:]"), ("train[:50%]", "test"), ("train[-500:]", "test")):
        require_apart({"a": splits[apart[0]]}, {"b": splits[apart[1]]})
    for both in (
        ("train[:50%]", "train[:-500]"),
        ("train[:-500]", "train[499:501]+test"),
        ("test", "train[499:501]+test"),
    ):
        with pytest.raises(UserError, match="rows of a, too"):
            require_apart({"a": splits[both[0]]}, {"b": splits[both[1]]})


def test_lengths_of_the_hubs_splits_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    from gdo_cli.data import hub
    from gdo_cli.data.dataset import HubDataset

    def loaded(*_: Any, split: str, **__: Any) -> Arrow:
        rows = Arrow.from_list([{"n": i} for i in range(*{"a[:4]": (0, 4), "a[3:]": (3, 6)}[split])])
        rows.info.splits = SplitDict({"a": SplitInfo("a", num_examples=6)})
        return rows

    monkeypatch.setattr(hub, "_from_cache", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", loaded)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: Arrow)
    monkeypatch.setattr(Arrow, "sha", "0", raising=False)
    dataset = Dataset("x", {"train": "a[:4]", "test": "a[3:]"}, hub=HubDataset("org/x"))
    first, second = (load_split(dataset, role, DataConfig(source="hub")) for role in ("train", "test"))
    with pytest.raises(UserError, match=r"b: 1 of its 3 rows are rows of a, too \(the first: org/x/a\[3\]\)"):
        require_apart({"a": first}, {"b": second})


# ---------------------------------------------------------------------------------- by equal prompts


@pytest.mark.parametrize("again", ["question 3", " question 3", "question  3", "question\t3 ", "question\n3"])
def test_equal_prompts_are_warned_about_with_the_numbers(tmp_path: Path, capsys: Told, again: str) -> None:
    write(tmp_path / "d/train.jsonl", asked(30))
    write(tmp_path / "d/validation.jsonl", [*asked(10, 100), again])
    write(tmp_path / "d/test.jsonl", [*asked(5, 200), again, "question 4"])
    data = read(tmp_path / "d", "train: train, validation: validation, test: test")
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 11 validation items have the prompt of a train row" in said
    assert "2 of 7 test items have the prompt of a train row" in said
    assert "1 of 7 test items have the prompt of a validation row" in said
    numbers = {"validation in train": 1, "test in train": 2, "test in validation": 1}
    assert data.provenance["repeated_prompts"] == numbers


def test_a_copied_file_is_warned_about_as_a_whole(tmp_path: Path, capsys: Told) -> None:
    for name in ("train", "validation"):
        write(tmp_path / f"d/{name}.jsonl", asked(30, 100 * (name == "train")))
    write(tmp_path / "d/test.jsonl", asked(30, 100))
    read(tmp_path / "d", "train: train, validation: validation, test: test")
    assert "30 of 30 test items have the prompt of a train row" in " ".join(capsys.readouterr().err.split())


@given(
    st.lists(st.text("aAb \n\t", max_size=4), max_size=12),
    st.lists(st.text("aAb \n\t", max_size=4), max_size=12),
)
def test_repeated_prompts_are_those_that_are_equal_in_their_words_but_for_case(
    first: list[str], second: list[str]
) -> None:
    expected = [s for s in second if any(s.lower().split() == f.lower().split() for f in first)]
    assert repeated(second, first) == expected


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "task", ["scitail", "qasc", "mathqa", "mathqa_gain", "mtnt", "mtnt_reverse", "multi30k"]
)
def test_nothing_is_said_of_the_sample_but_that_it_is_one(task: str, capsys: Told) -> None:
    read_run_data(load_run(["model=tiny", "data=sample", f"task={task}"]))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "data=sample" in warnings[0]


# --------------------------------------------------------------------------------------- what is long

THREE = "train: 'all[:20]', validation: 'all[20:40]', test: 'all[40:]'"


def with_long(path: Path, *places: int) -> Path:
    return write(path / "mine.jsonl", ["word " * 600 if n in places else q for n, q in enumerate(asked(60))])


def test_long_items_are_counted_and_told_and_the_counts_are_of_what_was_measured(
    tmp_path: Path, capsys: Told
) -> None:
    file = with_long(tmp_path, *range(48, 60), 39)
    result = experiment.run(config(file, THREE, "method=sft", "train.steps=1"))
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "12 of 20 test examples are longer than train.max_length=512 tokens and are left out: 8 are" in said
    )
    assert "1 of 20 validation examples are longer" in said
    data = result.record.data
    assert (data["test_items"], data["test_too_long"]) == (8, 12)
    assert (data["validation_items"], data["validation_too_long"]) == (19, 1)
    assert sum(row["part"] == "task/test" for row in result.predictions) == 8
    shown = CliRunner().invoke(app, ["show", str(result.path)], env={"COLUMNS": "300"})
    assert (
        "19 validation, 8 test items; 1 validation examples too long; 12 test examples too long"
        in " ".join(shown.output.split())
    )


@pytest.mark.parametrize(
    ("role", "long"),
    [("train", range(20)), ("validation", range(20, 40)), ("test", range(40, 60))],
)
def test_a_split_that_is_too_long_as_a_whole_is_refused(tmp_path: Path, role: str, long: range) -> None:
    file = with_long(tmp_path, *long)
    with pytest.raises(
        UserError, match=f"20 of 20 {role} examples are longer than train.max_length=512 tokens; raise"
    ):
        experiment.run(config(file, THREE, "method=sft"))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_length_that_cuts_everything_is_refused(tmp_path: Path, length: int) -> None:
    file = with_long(tmp_path)
    with pytest.raises(
        UserError, match=f"20 of 20 train examples are longer than train.max_length={length} tokens"
    ):
        experiment.run(config(file, THREE, "method=sft", f"train.max_length={length}"))


# ---------------------------------------------------------------------------------- what is not usable


@pytest.mark.few(4)
@pytest.mark.parametrize(
    "line", [b"\xff\n", b"\xef\xbb\xbf{}\n", b"[]\n", b'{"q": "x"}\n', b'{"q": "x", "a": " "}\n', b"{\n"]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_row_that_cannot_be_used_is_told_wherever_it_stands(
    tmp_path: Path, capsys: Told, line: bytes, first: bool
) -> None:
    file = write(tmp_path / "mine.jsonl", asked(300))
    good = file.read_bytes()
    file.write_bytes(line + good if first else good + line)
    splits = "train: 'all[:150]', validation: 'all[150:-149]', test: 'all[-149:]'"
    data = read(file, splits, "data.max_bad_rows=0.5")
    number = 1 if first else 301
    assert (
        f"rows cannot be used and are left out; the first: {file.parent.name}/mine.jsonl:{number}: "
        in " ".join(capsys.readouterr().err.split())
    )
    skipped = [data.provenance[role]["skipped_rows"] for role in ("train", "validation", "test")]
    assert sum(skipped) == 1


# --------------------------------------------------------------------------------------- no score, labels


def test_a_run_without_a_score_fails(tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    from gdo_cli.evaluation.evaluator import Evaluation, Evaluator

    usual: Callable[..., Evaluation] = Evaluator.evaluate_task

    def nothing(self: Evaluator, lm: Any, role: str, advance: Any = None) -> Evaluation:
        return Evaluation({}) if role == "test" else usual(self, lm, role, advance)

    monkeypatch.setattr(Evaluator, "evaluate_task", nothing)
    with pytest.raises(RunFailed, match="no score of task"):
        experiment.run(tiny_run("method=sft", "train.steps=1"))
    assert experiment.run(tiny_run("method=sft", "train.steps=1", "evaluation.final_items=0")).record.final


def test_a_probe_without_a_row_to_ask_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data/wikitext2/test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"text": ""}\n{"text": " "}\n')
    own = write(tmp_path / "mine.jsonl", asked(60))
    local = ["probe=[perplexity]", "data=local", f"data.dir={tmp_path / 'data'}"]
    with pytest.raises(UserError, match="none of its 2 rows has anything to ask"):
        read(own, THREE, *local)


def test_own_rows_are_a_file_and_probes_beside_them_may_be_the_sample(tmp_path: Path, capsys: Told) -> None:
    file = with_long(tmp_path)
    alone = experiment.run(config(file, THREE, "method=sft", "train.steps=1"))
    assert alone.record.data["source"] == alone.record.data["train"]["source"] == "file"
    assert "sample" not in capsys.readouterr().err
    assert "file data" in sources([alone])
    assert "SAMPLE" not in sources([alone])
    few = ["probe=[winogrande]", "probe.winogrande.items=4", "probe.winogrande.shots=1"]
    beside = experiment.run(config(file, THREE, "method=sft", "train.steps=1", *few))
    assert "the bundled sample stands for winogrande" in " ".join(capsys.readouterr().err.split())
    assert "file data (probes: BUNDLED SAMPLE)" in sources([beside])
