"""Claims about a user's own probes: their files, their fields, their scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from conftest import RunFactory
from pyarrow import parquet

from gdo_cli.data.dataset import RowError
from gdo_cli.data.rows import read_rows
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.experiment.run import run
from gdo_cli.probes.own import Answers, Choices
from gdo_cli.support.errors import UserError

QUESTIONS = [{"question": f"Which is {n}?", "options": ["two", f"{n}"], "answer": "B"} for n in range(3, 9)]


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the form that the file's name says."""
    if file.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix in (".csv", ".tsv"):
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# ----------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_form_of_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": 'a "quoted", text\nof two lines', "answer": "é"}, {"text": "b", "answer": "ß"}]
    found, where, rejected = read_rows(written(tmp_path / f"rows{suffix}", rows))
    assert (found, len(where), rejected) == (rows, 2, [])


def test_a_line_of_csv_with_other_cells_is_told_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffx,y\n1,2\n3\n4,5\n")
    rows, where, rejected = read_rows(tmp_path / "a.csv")
    assert rows == [{"x": "1", "y": "2"}, {"x": "4", "y": "5"}]
    assert where[1].endswith("a.csv:4")
    assert [(before, told.rpartition("/")[2]) for before, told in rejected] == [
        (1, "a.csv:3: 1 cells, not 2")
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"x,x\n1,2\n", "name every column"),
        ("a.csv", b"x,y\n\xff,2\n", "cannot be read as csv"),
        ("a.csv", b'x,y\n"1,2\n', "cannot be read as csv"),
        ("a.parquet", b"PAR1, not", "cannot be read as parquet"),
    ],
)
def test_a_file_that_is_none_is_one_message(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_rows(tmp_path / name)


# ----------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize("answer", ["B", "5", 1, "1", 1.0])
def test_the_right_option_is_named_by_text_letter_or_place(answer: object) -> None:
    probe = Choices(path="x")
    assert probe.asked({"question": "Which?", "options": ["4", "5", "6"], "answer": answer}).right == 1


def test_a_text_that_is_also_a_letter_is_the_text() -> None:
    asked = Choices(path="x").asked({"question": "Which?", "options": ["B", "A"], "answer": "A"})
    assert asked.right == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"options": ["a", "b"], "answer": "c"}, "no option, no letter"),
        ({"options": ["a", "b"], "answer": 2}, "no option, no letter"),
        ({"options": ["a", "b"], "answer": True}, "no option, no letter"),
        ({"options": ["a", "b"], "answer": "AB"}, "no option, no letter"),
        ({"options": ["a", "a"], "answer": "a"}, "there twice"),
        ({"options": ["a"], "answer": "a"}, "two options"),
        ({"options": "a b", "answer": "a"}, "no list"),
        ({"options": ["a", " "], "answer": "a"}, "empty"),
    ],
)
def test_a_row_that_is_no_question_is_refused(row: dict[str, Any], told: str) -> None:
    with pytest.raises(RowError, match=told):
        Choices(path="x").asked({"question": "Which?"} | row)


def test_options_may_stand_in_fields_of_their_own() -> None:
    probe = Choices(path="x", options="first, second")
    row = {"question": "Which?", "first": "yes", "second": "no", "answer": "no"}
    assert [query.continuation for query in probe.queries(row, [])] == [" yes", " no"]
    assert probe.asked(row).right == 1


@pytest.mark.parametrize(
    ("words", "found"),
    [("so 3 and 4 are 7.", 1.0), ("7 is wrong, 8 it is", 0.0), ("none", 0.0)],
)
def test_a_pattern_counts_what_it_finds_last(words: str, found: float) -> None:
    probe = Answers(path="x", score="pattern", pattern=r"(\d+)")
    assert probe.judge_words({"prompt": "p", "answer": 7}, words)["pattern"].value == found


def test_f1_counts_words_as_squad_does() -> None:
    probe = Answers(path="x", score="f1")
    assert probe.judge_words({"prompt": "p", "answer": "the red cat"}, "a cat")["f1"].value == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"score": "pattern"}, "needs a pattern"),
        ({"pattern": "a"}, "needs a pattern"),
        ({"score": "pattern", "pattern": "("}, "not a regular expression"),
        ({"score": "bleu"}, "choose from: exact_match, f1, pattern"),
        ({"path": ""}, "name its file"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Answers(**{"path": "x"} | settings)


# ----------------------------------------------------------------------------------------- in a run


def test_own_probes_are_measured_throughout(tiny_run: RunFactory, tmp_path: Path) -> None:
    questions = written(tmp_path / "q.jsonl", QUESTIONS)
    answers = written(tmp_path / "a.csv", [{"prompt": f"{n} and 1 are", "answer": n + 1} for n in range(5)])
    texts = written(tmp_path / "t.parquet", [{"body": f"Here is a text about {n}."} for n in range(5)])
    result = run(
        tiny_run(
            "method=sft",
            "probe=[winogrande,choices,answers,text]",
            f"probe.choices.path={questions}",
            f"probe.answers.path={answers}",
            "probe.answers.score=f1",
            f"probe.text.path={texts}",
            "probe.text.text=body",
            "keep.tolerances={choices: 0.5, answers/exact_match: 0, text: 5%}",
        )
    )
    for measure in ("choices/likelihood", "choices/likelihood_norm", "answers/f1", "text/loss"):
        assert all(measure in line for line in result.evaluations)
    rows = [row for row in result.predictions if row["part"] == "answers"]
    assert len(rows) == 5
    assert all("answered" in row for row in rows)
    assert result.record.keep["tolerances"] == {"choices": 0.5, "answers/exact_match": 0, "text": "5%"}


def test_a_file_that_is_not_there_is_named_by_its_setting(tiny_run: RunFactory) -> None:
    with pytest.raises(UserError, match=r"probe\.choices\.path=nowhere\.jsonl: no such file"):
        read_run_data(tiny_run("probe=[winogrande,choices]", "probe.choices.path=nowhere.jsonl"))
