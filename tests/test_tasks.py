"""Claims about tasks: what exactly stands in a prompt, what the answer is, and which rows are refused."""

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdo_cli.data.dataset import Dataset, Row, RowError
from gdo_cli.stats.metrics import BLEU, EXACT_MATCH, METRICS
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.base import Example, Task
from gdo_cli.tasks.jsonl import JSONL
from gdo_cli.tasks.mathqa import LETTERS, MathQA, parse_options
from gdo_cli.tasks.qasc import QASC
from gdo_cli.tasks.scitail import SciTail
from gdo_cli.tasks.translation import Translation

ANY = Dataset("any")

SCITAIL: Row = {
    "premise": "Pluto rotates once every 6.39 days;",
    "hypothesis": "Pluto rotates.",
    "label": "neutral",
}
QASC_ROW: Row = {
    "question": "What can trigger an immune response?",
    "choices": {"label": ["A", "B", "C"], "text": ["decrease strength", "Transplanted organs", "death"]},
    "answerKey": "B",
    "fact1": "Antigens are found on organs.",
    "fact2": "Antigens trigger immune responses.",
}
MATHQA: Row = {
    "Problem": "sixty thousand books , how much ?",
    "options": "a ) $ 1 , 250 , b ) 2.5 % , c ) 38 , d ) 1 / 3 , e ) none of these",
    "correct": "a",
}
MT: Row = {"en": "A man\n is  hungry.", "fr": "Un homme a faim."}


def jsonl(**fields: Any) -> JSONL:
    return JSONL(path="mine.jsonl", **fields)


@pytest.mark.parametrize(
    ("task", "row", "prompt", "answer"),
    [
        (
            SciTail(ANY),
            SCITAIL,
            "Premise: Pluto rotates once every 6.39 days;\nHypothesis: Pluto rotates.\n"
            "Relation (entails or neutral):",
            " neutral",
        ),
        (
            QASC(ANY),
            QASC_ROW,
            "Question: What can trigger an immune response?\n(A) decrease strength\n"
            "(B) Transplanted organs\n(C) death\nAnswer:",
            " B",
        ),
        (
            QASC(ANY, answer="text"),
            QASC_ROW,
            "Question: What can trigger an immune response?\n(A) decrease strength\n"
            "(B) Transplanted organs\n(C) death\nAnswer:",
            " Transplanted organs",
        ),
        (
            QASC(ANY, facts=True),
            QASC_ROW,
            "Facts: Antigens are found on organs. Antigens trigger immune responses.\n"
            "Question: What can trigger an immune response?\n(A) decrease strength\n"
            "(B) Transplanted organs\n(C) death\nAnswer:",
            " B",
        ),
        (
            MathQA(ANY),
            MATHQA,
            "Problem: sixty thousand books , how much ?\na ) $ 1 , 250\nb ) 2.5 %\nc ) 38\nd ) 1 / 3\n"
            "e ) none of these\nAnswer:",
            " a",
        ),
        (
            MathQA(ANY, answer="text"),
            MATHQA,
            "Problem: sixty thousand books , how much ?\na ) $ 1 , 250\nb ) 2.5 %\nc ) 38\nd ) 1 / 3\n"
            "e ) none of these\nAnswer:",
            " $ 1 , 250",
        ),
        (Translation(ANY), MT, "English: A man is hungry.\nFrench:", " Un homme a faim."),
    ],
    ids=["scitail", "qasc", "qasc text", "qasc facts", "mathqa", "mathqa text", "translation"],
)
def test_a_row_is_exactly_this_prompt_and_answer(task: Task, row: Row, prompt: str, answer: str) -> None:
    assert task.example(row) == Example(prompt, answer)


@pytest.mark.parametrize(
    ("task", "row"), [(SciTail(ANY), SCITAIL), (QASC(ANY), QASC_ROW), (MathQA(ANY), MATHQA)]
)
def test_space_around_fields_does_not_matter(task: Task, row: Row) -> None:
    padded = {key: f" {value}\n" if isinstance(value, str) else value for key, value in row.items()}
    assert task.example(padded) == task.example(row)


def test_translations_are_scored_by_bleu_and_the_rest_by_exact_match() -> None:
    assert [task.metric for task in (SciTail(ANY), QASC(ANY), MathQA(ANY))] == [EXACT_MATCH] * 3
    assert Translation(ANY).metric == BLEU


def test_ones_own_rows_are_scored_by_any_metric() -> None:
    assert jsonl().metric == EXACT_MATCH
    assert {name: jsonl(score=name).metric for name in METRICS} == METRICS


# --------------------------------------------------------------------------------------- refused rows

WRONG: list[tuple[Any, str]] = [(None, "missing"), ("", "empty"), (" \n", "empty"), (True, "no text")]
TEXTS = [
    *((SciTail(ANY), SCITAIL, key) for key in ("premise", "hypothesis", "label")),
    *((QASC(ANY, facts=True), QASC_ROW, key) for key in ("question", "answerKey", "fact1", "fact2")),
    *((MathQA(ANY), MATHQA, key) for key in ("Problem", "options", "correct")),
    *((Translation(ANY), MT, key) for key in ("en", "fr")),
    *((jsonl(), {"prompt": "a", "completion": "b"}, key) for key in ("prompt", "completion")),
]


@pytest.mark.parametrize(("value", "reason"), WRONG)
@pytest.mark.parametrize(("task", "row", "key"), TEXTS, ids=[f"{type(t).__name__}-{k}" for t, _, k in TEXTS])
def test_a_field_without_text_is_refused_by_name(
    task: Task, row: Row, key: str, value: Any, reason: str
) -> None:
    with pytest.raises(RowError, match=f"'{key}' is {reason}"):
        task.example({**row, key: value})


@pytest.mark.parametrize(("task", "row", "key"), TEXTS, ids=[f"{type(t).__name__}-{k}" for t, _, k in TEXTS])
def test_a_field_that_is_not_there_is_refused_by_name(task: Task, row: Row, key: str) -> None:
    with pytest.raises(RowError, match=f"'{key}' is missing"):
        task.example({k: v for k, v in row.items() if k != key})


@pytest.mark.parametrize(
    ("task", "row", "key", "value", "message"),
    [
        (SciTail(ANY), SCITAIL, "label", "entailment", "'entailment', not one of entails, neutral"),
        (SciTail(ANY), SCITAIL, "label", "Entails", "not one of"),
        (QASC(ANY), QASC_ROW, "answerKey", "H", "'H' is none of the options A, B, C"),
        (MathQA(ANY), MATHQA, "correct", "f", "not one of a, b, c, d, e"),
        (MathQA(ANY), MATHQA, "options", "a ) 1", "cannot be read: 'a ) 1'"),
        (MathQA(ANY), {**MATHQA, "correct": "e"}, "options", "a ) 1 , b ) 2", "'e' is not among a, b"),
    ],
)
def test_a_wrong_label_is_refused(task: Task, row: Row, key: str, value: str, message: str) -> None:
    with pytest.raises(RowError, match=re.escape(message)):
        task.example({**row, key: value})


@pytest.mark.parametrize(
    "choices",
    [
        None,
        "A",
        ["A", "B"],
        {},
        {"label": ["A"]},
        {"label": "AB", "text": "ab"},
        {"label": ["A", "B"], "text": ["one"]},
        {"label": [], "text": []},
        {"label": ["A", "B"], "text": ["one", " "]},
        {"label": ["A", ""], "text": ["one", "two"]},
        {"label": ["A", "B"], "text": ["one", 2]},
        {"label": ["A", "A"], "text": ["one", "two"]},  # which of them is right?
    ],
    ids=str,
)
def test_malformed_options_are_refused(choices: Any) -> None:
    with pytest.raises(RowError, match="choices"):
        QASC(ANY).example({**QASC_ROW, "answerKey": "A", "choices": choices})


def test_qasc_without_facts_does_not_need_them() -> None:
    bare = {key: value for key, value in QASC_ROW.items() if not key.startswith("fact")}
    assert QASC(ANY).example(bare) == QASC(ANY).example(QASC_ROW)


@pytest.mark.parametrize("task", [QASC, MathQA])
def test_an_unknown_form_of_answer_is_refused(task: type[QASC | MathQA]) -> None:
    with pytest.raises(UserError, match=r"task\.answer=number: unknown; choose from: letter, text"):
        task(ANY, answer="number")


# --------------------------------------------------------------------------------- options of MathQA


def separates_nothing(value: str) -> bool:
    """Whether a text of an option cannot be taken for the beginning of the next one."""
    return value == value.strip() and value != "" and not re.search(r",\s*[a-e]\s*\)", f"{value} ,")


numbers = st.builds(
    lambda sign, whole, rest: " ".join(f"{sign} {whole:,}{rest}".replace(",", " , ").split()),
    st.sampled_from(["", "$", "-", "rs ."]),
    st.integers(0, 10**9),
    st.sampled_from(["", " %", ".5", " / 3", " π", " cm ²"]),
)
phrases = st.text("0123456789abcdefxyz ,.)($%/π'\"\\[]-", min_size=1, max_size=20).filter(separates_nothing)
option_lists = st.lists(numbers | phrases, min_size=2, max_size=5)


def labelled(texts: list[str]) -> list[str]:
    return [f"{letter} ) {value}" for letter, value in zip(LETTERS, texts, strict=False)]


@given(option_lists)
def test_options_come_back_from_the_plain_form(texts: list[str]) -> None:
    assert list(parse_options(" , ".join(labelled(texts))).items()) == list(zip(LETTERS, texts, strict=False))


@given(option_lists)
def test_options_come_back_from_the_form_of_a_list(texts: list[str]) -> None:
    assert parse_options(str(labelled(texts))) == parse_options(" , ".join(labelled(texts)))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a ) 1 , 000 , b ) 2 , 500 , 000", {"a": "1 , 000", "b": "2 , 500 , 000"}),
        ("a)12,b)15", {"a": "12", "b": "15"}),
        ("a ) rs . 400 , b ) ( 1 / 2 )", {"a": "rs . 400", "b": "( 1 / 2 )"}),
        ("['a ) 4', 'b ) 4 π']", {"a": "4", "b": "4 π"}),
        ("['a ) 1 , 000', \"b ) it 's\"]", {"a": "1 , 000", "b": "it 's"}),
    ],
)
def test_both_forms_of_options_are_read(raw: str, expected: dict[str, str]) -> None:
    assert parse_options(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        "12 , 15",
        "a ) 12",
        "a ) 1 , a ) 2",
        "a ) 1 , b ) 2 , a ) 3",
        "[",
        "['a ) 1', 'b ) 2'",
        "[]",
        "[1, 2]",
        "[print('called')]",
        "['a ) 1'] + ['b ) 2']",
        "[" * 10_000,
        "a ) , b ) 2 , c ) 3",  # an option that is empty
    ],
    ids=lambda raw: raw[:24],
)
def test_options_that_cannot_be_read_are_refused(raw: str) -> None:
    with pytest.raises(RowError, match="options"):
        parse_options(raw)


# ------------------------------------------------------------------------------------------ own rows

ROW: Row = {"question": " What? ", "answer": "This.", "n": 3, "x": -0.5, "odd name": "odd", "yes": True}


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("{question}", "{answer}", Example("What?", " This.")),
        ("Q: {question}\nA:", "{answer}", Example("Q: What?\nA:", " This.")),
        ("{question} {question}", "  {answer} !", Example("What? What?", " This. !")),
        ("{{literal}} {question}", "{answer}", Example("{literal} What?", " This.")),
        ("Say it:", "{answer}", Example("Say it:", " This.")),
        (
            "{n} + {x} =",
            "{n}",
            Example("3 + -0.5 =", " 3"),
        ),  # numbers are written as they are
    ],
)
def test_templates_are_filled_from_the_row(prompt: str, completion: str, expected: Example) -> None:
    assert jsonl(prompt=prompt, completion=completion).example(ROW) == expected


@pytest.mark.parametrize("template", ["{question", "question}", "{", "{question!}"])
@pytest.mark.parametrize("key", ["prompt", "completion"])
def test_a_template_that_is_none_is_refused_at_once(key: str, template: str) -> None:
    with pytest.raises(UserError, match=f"task.{key}=.*: not a template"):
        jsonl(**{key: template})


@pytest.mark.parametrize(
    "template",
    [
        *("{question!r}", "{question:>9}", "{question:{n}}"),  # what would be dropped
        *("{question.__class__}", "{question[0]}", "{}", "{0}", "{odd name}"),  # what is no field's name
    ],
)
@pytest.mark.parametrize("key", ["prompt", "completion"])
def test_a_template_holds_plain_names_of_fields_and_nothing_else(key: str, template: str) -> None:
    with pytest.raises(UserError, match=f"task.{key}=.* must be the plain name of a field"):
        jsonl(**{key: template})


@pytest.mark.parametrize("completion", ["", " ", "\n"])
def test_a_completion_without_text_is_refused(completion: str) -> None:
    with pytest.raises(RowError, match="the completion is empty"):
        jsonl(prompt="{question}", completion=completion).example(ROW)


@pytest.mark.parametrize(("template", "reason"), [("{nothing}", "missing"), ("{yes}", "no text")])
def test_only_text_and_numbers_of_the_row_fill_a_template(template: str, reason: str) -> None:
    with pytest.raises(RowError, match=f"'{template.strip('{}')}' is {reason}"):
        jsonl(prompt=template).example(ROW)


def test_an_answer_of_several_lines_must_be_allowed() -> None:
    """By default a line break ends an answer, so that none could ever be right that holds one."""
    row = {"prompt": "List:", "completion": "one\ntwo"}
    with pytest.raises(RowError, match=r"several lines \(task\.lines=many"):
        jsonl().example(row)
    with pytest.raises(RowError, match="several lines"):
        jsonl(messages="chat").example({"chat": [turn("user", "List"), turn("assistant", "one\ntwo")]})
    assert jsonl(lines="many").example(row) == Example("List:", " one\ntwo")
    assert (jsonl().multiline, jsonl(lines="many").multiline) == (False, True)


def test_an_unknown_number_of_lines_is_refused() -> None:
    with pytest.raises(UserError, match=r"task\.lines=two: unknown; choose from: many, one"):
        jsonl(lines="two")


def test_own_rows_need_a_file() -> None:
    with pytest.raises(UserError, match=r"task\.path: name the file"):
        JSONL()


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"task\.score=rouge: unknown; choose from: bleu, chrf, exact_match, f1"
    ):
        jsonl(score="rouge")


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


CHAT = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Yes?"), turn("user", "How?")]
ANSWERED = [*CHAT, turn("assistant", " So. ")]


def test_a_chat_is_its_turns_and_the_last_one_is_the_answer() -> None:
    said = tuple((turn["role"], turn["content"]) for turn in CHAT)
    expected = Example("System: Be brief.\nUser: Hi\nAssistant: Yes?\nUser: How?\nAssistant:", " So.", said)
    assert jsonl(messages="chat").example({"chat": ANSWERED}) == expected


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        (None, "'chat' needs a list of at least two messages"),
        ("Hi", "'chat' needs a list"),
        ([], "at least two"),
        (ANSWERED[-1:], "at least two"),
        (["Hi", "Yes?"], "no message"),
        (CHAT, "the last message must be the assistant's"),
        ([turn("user", ""), ANSWERED[-1]], "'content' is empty"),
        ([turn("user", 3), ANSWERED[-1]], "'content' is no text"),
        ([{"content": "Hi"}, ANSWERED[-1]], "'role' is missing"),
        ([turn("user", "Hi"), {"role": "assistant"}], "'content' is missing"),
        ([turn("user", "Hi"), turn("assistant", " ")], "'content' is empty"),
    ],
)
def test_a_malformed_chat_is_refused(chat: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        jsonl(messages="chat").example({"chat": chat})


def test_tasks_cannot_be_changed_once_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SciTail(ANY).dataset = ANY  # type: ignore[misc]
