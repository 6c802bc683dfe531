"""Claims about metrics: what each gives, and that a run and all that reads it ask nothing else."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from conftest import RunFactory
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.config.build import load_run
from gdo_cli.experiment import run as experiment
from gdo_cli.figures.style import name_of
from gdo_cli.runs.items import items_of
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.intervals import average, permutation
from gdo_cli.stats.metrics import (
    BLEU,
    CHRF,
    EXACT_MATCH,
    METRICS,
    TOKEN_F1,
    ItemMetric,
    Response,
    SacreMetric,
    measure_named,
    token_f1,
)

TEXTS = ["le chat dort", "Un homme, assis.", "", "la  table rouge est là"]
ANSWERS = ["le chat dort", "un homme assis", "rien", "la table est rouge"]


def responses(texts: list[str] = TEXTS, answers: list[str] = ANSWERS) -> list[Response]:
    return [Response(t, a, t == a) for t, a in zip(texts, answers, strict=True)]


# -------------------------------------------------------------------------------------- one by one


def squad_f1(prediction: str, ground_truth: str) -> float:
    """As SQuAD's evaluate-v1.1.py defines it."""

    def normalize(text: str) -> str:
        text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    prediction_tokens, ground_truth_tokens = normalize(prediction).split(), normalize(ground_truth).split()
    num_same = sum((Counter(prediction_tokens) & Counter(ground_truth_tokens)).values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


@pytest.mark.parametrize(
    ("predicted", "answer", "expected"),
    [
        ("the cat sat", "The cat sat.", 1.0),
        ("cat", "a cat sat", 2 / 3),  # one of one, one of two
        ("the cat sat on the mat", "cat mat mat", 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),
        ("cat cat cat", "cat", 1 / 2),  # a word counts as often as it stands in both
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("the", "an", 0.0),  # no word on either side
        ("state-of-the-art", "stateoftheart", 1.0),  # punctuation goes first, with no space in its place
        ("another theme", "other me", 0.0),  # articles are whole words
        ("1,000", "1000", 1.0),
    ],
)
def test_f1_is_that_of_the_shared_words(predicted: str, answer: str, expected: float) -> None:
    assert token_f1(predicted, answer) == pytest.approx(expected)


WORDS = st.lists(st.sampled_from(["the", "An", "a", "cat", "Cat.", "sat", "—", "x-y", "é", "\n"]), max_size=8)


@given(WORDS, WORDS)
def test_f1_is_what_squads_script_gives(predicted: list[str], answer: list[str]) -> None:
    texts = " ".join(predicted), " ".join(answer)
    assert token_f1(*texts) == squad_f1(*texts)


@given(st.text(), st.text())
def test_f1_of_any_text_is_what_squads_script_gives(predicted: str, answer: str) -> None:
    assert token_f1(predicted, answer) == squad_f1(predicted, answer)


def test_f1_is_a_mean_over_items_that_keeps_each() -> None:
    found = TOKEN_F1.score(responses())
    each = [squad_f1(t, a) for t, a in zip(TEXTS, ANSWERS, strict=True)]
    assert found.value == pytest.approx(np.mean(each))
    assert found.se == pytest.approx(np.std(each, ddof=1) / 2)
    assert found.kept == [{"f1": round(value, 6)} for value in each]


def test_exact_match_is_told_by_the_model_and_not_by_its_text() -> None:
    found = EXACT_MATCH.score([Response("a", "a", False), Response("a", "b", True)])
    assert (found.value, found.kept) == (0.5, [{"correct": False}, {"correct": True}])
    assert not EXACT_MATCH.generates


@pytest.mark.parametrize(("metric", "own"), [(BLEU, sacrebleu.BLEU), (CHRF, sacrebleu.CHRF)])
def test_a_corpus_gets_what_sacrebleu_gives_it(metric: SacreMetric, own: Callable[[], Any]) -> None:
    scorer = own()
    expected = scorer.corpus_score(TEXTS, [ANSWERS]).score
    found = metric.score(responses())
    assert (found.value, found.se, found.kept) == (expected, None, [{}] * 4)
    assert found.provenance == {f"{metric.name}_signature": str(scorer.get_signature())}


def test_chrf_of_one_pair_by_hand() -> None:
    """chrF2 of Popović (2015): n-grams of characters, n up to 6, spaces left out, β = 2."""
    ours, theirs = "abcdefgx", "abcdefgh"
    precision = recall = np.mean([(8 - n) / (9 - n) for n in range(1, 7)])  # all but the one with the end
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert CHRF.score(responses([ours], [theirs])).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("key", "higher"),
    [
        *((metric.key, True) for metric in METRICS.values()),
        ("task/loss", False),
        ("perplexity/loss", False),
        ("kl/answer", False),
        ("kl/prompt", False),
        ("winogrande/likelihood", True),
    ],
)
def test_every_measure_has_a_direction(key: str, higher: bool) -> None:
    assert measure_named(key).higher_is_better == higher


# ------------------------------------------------------------------------------------------ in a run


@pytest.fixture
def trained(tmp_path: Path, tiny_run: RunFactory) -> Callable[[str, str], RunResult]:
    """A tiny run on rows of one's own, scored as asked."""
    rows = [{"q": f"{i} and {i}", "a": "the cat sat" if i % 2 else "a dog"} for i in range(450)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def trained(score: str, method: str) -> RunResult:
        words = ("task=jsonl", f"task.path={file}", "task.prompt='{q}'", "task.completion='{a}'")
        scored = f"task.score={score}".split("\t")  # and its settings
        config = tiny_run(*words, *scored, f"method={method}", "task.max_new_tokens=6")
        return experiment.run(config)

    return trained


def gdo(*words: str, results: Path) -> str:
    return CliRunner().invoke(app, [*words, "--results", str(results)], env={"COLUMNS": "200"}).stdout


def task_rows(run: RunResult) -> list[dict[str, Any]]:
    return [row for row in run.predictions if row["part"] == "task/test"]


def test_a_run_keeps_the_f1_of_each_item_and_compares_by_it(
    trained: Callable[[str, str], RunResult], tmp_path: Path
) -> None:
    first, second = trained("f1", "frozen"), trained("f1", "sft")
    items = [items_of(run, "task/f1") for run in (first, second)]
    for run, found in zip((first, second), items, strict=True):
        rows = task_rows(run)
        assert [*rows[0]] == ["part", "item", "answer", "predicted", "f1"]
        expected = [squad_f1(row["predicted"], row["answer"]) for row in rows]
        assert found.values == pytest.approx(expected, abs=1e-6)
        assert run.final["task/f1"] == pytest.approx(np.mean(expected))
        assert run.final["task/f1_se"] == pytest.approx(np.std(expected, ddof=1) / 8**0.5)
        assert run.task_score == "task/f1"
    ours, theirs = ([0.5, 0.25, 0.0], [0.5, 1.0, 1 / 3])
    assert TOKEN_F1.paired(ours, theirs, [1.0] * 3, []) == permutation(ours, theirs, [1.0] * 3)
    assert TOKEN_F1.interval(theirs, [1.0] * 3, []) == average(theirs, [1.0] * 3)
    assert "task/f1" in gdo("compare", first.title, second.title, results=tmp_path)


def test_a_run_scored_by_chrf_is_compared_as_a_corpus(
    trained: Callable[[str, str], RunResult], tmp_path: Path
) -> None:
    first, second = trained("chrf", "frozen"), trained("chrf", "sft")
    rows = task_rows(first)
    assert [*rows[0]] == ["part", "item", "answer", "predicted"]
    texts, answers = ([row[key] for row in rows] for key in ("predicted", "answer"))
    assert first.final["task/chrf"] == sacrebleu.corpus_chrf(texts, [answers]).score
    assert "task/chrf_se" not in first.final
    assert first.record.data["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    told = gdo("compare", first.title, second.title, results=tmp_path)
    assert "task/chrf" in told
    assert f"{first.final['task/chrf']:.1f}" in told


def test_a_new_metric_is_one_entry(
    trained: Callable[[str, str], RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained by, kept, chosen by, listed, compared, drawn: nothing but the registry knows of it."""
    metric = ItemMetric(
        name="words_apart",
        title="Words too many or too few",
        field="apart",
        higher_is_better=False,
        digits=2,
        of=lambda r: float(abs(len(r.predicted.split()) - len(r.answer.split()))),
    )
    monkeypatch.setitem(METRICS, metric.name, metric)
    first, second = trained("words_apart", "frozen"), trained("words_apart", "sft")
    each = [row["apart"] for row in task_rows(first)]
    value = float(np.mean(each))
    assert first.task_score == "task/words_apart"
    assert first.final["task/words_apart"] == pytest.approx(value)
    assert first.validation_score == -first.evaluations[0]["task/words_apart"]
    told = gdo("compare", first.title, second.title, results=tmp_path)
    assert "task/words_apart ↓" in told
    assert f" {value:.2f} " in told
    assert f"{value:.3f}" in gdo("ls", "method=frozen", results=tmp_path)
    assert name_of("task/words_apart") == "Words too many or too few"


# ----------------------------------------------------------------------------------------- settings

CHINESE = [
    "我今天早上在公园里看到一只小猫",
    "他们明天要去北京参加一个重要会议",
    "这本书的内容非常有趣而且容易理解",
]
NEARLY = [
    "我今天早上在公园里看到一只小狗",
    "他们明天要去上海参加一个重要会议",
    "这本书的内容非常有趣而且容易阅读",
]
JAPANESE = ["今日はとても良い天気ですね", "彼は昨日学校に行きませんでした"]
THAI = ["วันนี้อากาศดีมากและฉันอยากไปเดินเล่น", "เขาไม่ได้ไปโรงเรียนเมื่อวานนี้"]
ENGLISH = ["The weather is very good today.", "He did not go to school yesterday."]


@pytest.mark.few(14)
@pytest.mark.parametrize("tokenize", ["13a", "intl", "zh", "char", "none"])
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("smooth_method", ["exp", "floor", "add-k", "none"])
def test_bleu_is_sacrebleus_with_the_settings_of_the_task(
    tokenize: str, lowercase: bool, smooth_method: str
) -> None:
    settings = {"tokenize": tokenize, "lowercase": lowercase, "smooth_method": smooth_method}
    metric, scorer = BLEU.with_settings(settings), sacrebleu.BLEU(**settings)
    texts, answers = [*NEARLY, "The Cat sat"], [*CHINESE, "the cat sat ."]
    found = metric.score(responses(texts, answers))
    assert found.value == scorer.corpus_score(texts, [answers]).score
    assert found.provenance["bleu_signature"] == str(scorer.get_signature())
    assert metric.interval(texts, [1.0] * 4, answers).value == found.value


def test_three_lines_of_chinese_are_nearly_right_by_characters_and_not_by_clauses() -> None:
    by_clause, by_character = BLEU, BLEU.with_settings({"tokenize": "zh"})
    assert by_clause.score(responses(NEARLY, CHINESE)).value == 0
    assert by_character.score(responses(NEARLY, CHINESE)).value > 50


def test_chrf_has_case_alone() -> None:
    texts, answers = ["The CAT"], ["the cat"]
    assert CHRF.with_settings({"lowercase": True}).score(responses(texts, answers)).value == pytest.approx(
        100
    )


def test_what_is_not_set_is_the_metric_itself() -> None:
    for metric in METRICS.values():
        assert metric.with_settings({"tokenize": "13a", "lowercase": False, "other": 1}) is metric


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("task.score=bleu task.tokenize=zhh", ("task.tokenize=zhh", "did you mean 'zh'?", "ja-mecab")),
        ("task.score=bleu task.tokenize=", ("task.tokenize=", "choose from: 13a")),
        ("task.score=bleu task.smooth_method=laplace", ("task.smooth_method=laplace", "add-k")),
        ("task.score=bleu task.lowercase=perhaps", ("task.lowercase=perhaps",)),
        ("task.score=f1 task.tokenize=zh", ("task.tokenize=zh: f1 has no such setting, bleu has",)),
        ("task.score=chrf task.tokenize=zh", ("task.tokenize=zh: chrf has no such setting",)),
        ("task.score=exact_match task.lowercase=true", ("task.lowercase=True", "bleu or chrf has")),
        (
            "task.score=bleu task.tokenize=flores200",
            ("task.tokenize=flores200", "none is fetched", "save http"),
        ),
        ("task.score=bleu task.tokenize=spBLEU-1K", ("task.tokenize=spBLEU-1K", "none is fetched")),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    words: str, fragments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sacrebleu, "SACREBLEU_DIR", str(tmp_path))
    result = CliRunner().invoke(app, ["config", "model=tiny", "task=jsonl", "task.path=x", *words.split()])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert [fragment for fragment in fragments if fragment not in result.stderr] == []


@pytest.mark.parametrize(
    ("settings", "references", "doubted"),
    [
        ({}, CHINESE, True),
        ({"tokenize": "intl"}, CHINESE, True),
        ({"tokenize": "none"}, JAPANESE, True),
        ({}, JAPANESE, True),
        ({}, THAI, True),
        ({"tokenize": "zh"}, THAI, True),
        ({"tokenize": "zh"}, CHINESE, False),
        ({"tokenize": "char"}, CHINESE, False),
        ({"tokenize": "char"}, THAI, False),
        ({}, ENGLISH, False),
        ({}, ["yes", "no", "refrigerator"], False),
        ({}, [" ".join(text) for text in CHINESE], False),
        ({}, [*ENGLISH, *ENGLISH, CHINESE[0]], False),
        ({}, ["是", "否"], False),
        ({}, [], False),
    ],
)
def test_bleu_is_doubted_where_references_hold_no_spaces(
    settings: dict[str, Any], references: list[str], doubted: bool
) -> None:
    said = BLEU.with_settings(settings).doubt(references) or ""
    assert said.startswith("task/bleu takes whole clauses for words") == doubted


def test_words_of_f1_are_doubted_too_and_characters_never() -> None:
    assert TOKEN_F1.doubt(CHINESE)
    assert not CHRF.doubt(CHINESE)
    assert not EXACT_MATCH.doubt(CHINESE)


@given(st.lists(st.text(st.characters(max_codepoint=0x24F)), max_size=4))
def test_no_text_of_latin_letters_is_doubted(references: list[str]) -> None:
    assert "clauses" not in (BLEU.doubt(references) or "")


@pytest.mark.few(4)
@pytest.mark.parametrize("key", ["tokenize", "lowercase", "smooth_method"])
@pytest.mark.parametrize("task", ["multi30k", "mtnt", "mtnt_reverse", "jsonl"])
def test_a_setting_makes_another_run_and_its_default_the_same(task: str, key: str) -> None:
    words = [f"task={task}", "data=sample", *(["task.path=x", "task.score=bleu"] if task == "jsonl" else [])]
    default = {"tokenize": "13a", "lowercase": "false", "smooth_method": "exp"}[key]
    other = {"tokenize": "char", "lowercase": "true", "smooth_method": "floor"}[key]
    plain, named, set_ = (
        load_run([*words, *more]).id for more in ([], [f"task.{key}={default}"], [f"task.{key}={other}"])
    )
    assert plain == named != set_


def test_a_run_says_how_it_was_scored_and_is_compared_with_its_like_alone(
    trained: Callable[[str, str], RunResult], tmp_path: Path
) -> None:
    plain, lowered = (trained(f"bleu{more}", "frozen") for more in ("", "\ttask.lowercase=true"))
    assert "case:mixed" in plain.record.data["bleu_signature"]
    assert "case:lc" in lowered.record.data["bleu_signature"]
    assert "case:lc" in gdo("show", lowered.title, results=tmp_path)
    assert items_of(plain, "task/bleu").identity != items_of(lowered, "task/bleu").identity
    assert "other settings" in gdo("compare", plain.title, lowered.title, results=tmp_path)


@pytest.mark.parametrize(("n", "least"), [(2, 0.5), (3, 0.25), (4, 0.125)])
def test_a_few_items_cannot_say_more_than_the_sign_test(n: int, least: float) -> None:
    right = [f"the cat of house {i} sat on the mat by the door" for i in range(n)]
    wrong = ["a b c d e f g h i"] * n
    assert BLEU.paired(wrong, right, [1.0] * n, right).p == pytest.approx(least)
