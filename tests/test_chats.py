"""Claims about chats as rows: TRL's columns, and several answers in a conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import RunFactory

from gdo_cli.data.dataset import RowError
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.jsonl import JSONL

SYSTEM, ASK, SAY = ({"role": role, "content": role[0]} for role in ("system", "user", "assistant"))
THREE = [SYSTEM, ASK, SAY, ASK, {"role": "assistant", "content": "second"}]


def turns(*messages: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((m["role"], m["content"]) for m in messages)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": THREE},
        {"prompt": THREE[:-1], "completion": THREE[-1:]},
        {"prompt": [], "completion": THREE},
    ],
)
def test_trls_columns_load_as_they_are(row: dict[str, Any]) -> None:
    example = JSONL(path="x").example(row)
    assert (example.turns, example.answer) == (turns(*THREE[:-1]), " second")
    assert example == JSONL(path="x", messages="m").example({"m": THREE})


def test_plain_prompt_and_completion_are_no_chat() -> None:
    example = JSONL(path="x").example({"prompt": "a", "completion": "b", "messages": THREE})
    assert (example.prompt, example.answer, example.turns) == ("a", " b", ())


def test_templates_of_ones_own_win_over_columns_of_a_chat() -> None:
    example = JSONL(path="x", prompt="{q}", completion="{a}").example({"q": "1", "a": "2", "messages": THREE})
    assert (example.prompt, example.turns) == ("1", ())


def test_all_answers_of_a_conversation_are_learnt_each_after_what_came_before() -> None:
    task = JSONL(path="x", answers="all")
    first, second = task.examples({"messages": THREE})
    assert (first.turns, first.answer) == (turns(SYSTEM, ASK), " a")
    assert second == task.example({"messages": THREE})
    assert JSONL(path="x").examples({"messages": THREE}) == [second]


def test_a_greeting_answers_nothing() -> None:
    (only,) = JSONL(path="x", answers="all").examples({"messages": [SAY, ASK, SAY]})
    assert only.turns == turns(SAY, ASK)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": [ASK]}, "at least two"),
        ({"messages": [ASK, SAY, ASK]}, "must be the assistant's"),
        ({"messages": ["a", "b"]}, "no message"),
        ({"prompt": [ASK], "completion": []}, "at least two"),
        ({"messages": "a"}, "field 'prompt' is missing"),
    ],
)
def test_what_is_no_conversation_is_refused(row: dict[str, Any], told: str) -> None:
    with pytest.raises(RowError, match=told):
        JSONL(path="x", answers="all").examples(row)


def test_training_rows_give_all_answers_and_measured_ones_the_last(
    tiny_run: RunFactory, tmp_path: Path
) -> None:
    rows = [
        {
            "messages": [
                ASK,
                SAY,
                {"role": "user", "content": f"u{i}"},
                {"role": "assistant", "content": f"a{i}"},
            ]
        }
        for i in range(6)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = '{train: "all[:2]", validation: "all[2:4]", test: "all[4:]"}'
    own = ("task=jsonl", f"task.path={tmp_path / 'c.jsonl'}", f"task.dataset.splits={splits}")
    data = read_run_data(tiny_run(*own, "task.answers=all"))
    assert [e.answer for e in data.train] == [" a", " a0", " a", " a1"]
    assert {e.answer for e in data.validation} == {" a2", " a3"}
    with pytest.raises(UserError, match="choose from: all, last"):
        tiny_run(*own, "task.answers=some")
