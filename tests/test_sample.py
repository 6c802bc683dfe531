"""Claims about the bundled sample: its form, its splits, and that its answers are right."""

import ast
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "gdo_cli" / "data" / "sample"

CHOICES = {"text": list, "label": list}
FIELDS: dict[str, dict[str, object]] = {
    "scitail": {"premise": str, "hypothesis": str, "label": str},
    "qasc": {
        "id": str,
        "question": str,
        "choices": CHOICES,
        "answerKey": str,
        "fact1": str,
        "fact2": str,
        "combinedfact": str,
        "formatted_question": str,
    },
    "mathqa": {
        "Problem": str,
        "Rationale": str,
        "options": str,
        "correct": str,
        "annotated_formula": str,
        "linear_formula": str,
        "category": str,
    },
    "mtnt": {"en": str, "fr": str},
    "multi30k_en_fr": {"en": str, "fr": str},
    "winogrande": {"sentence": str, "option1": str, "option2": str, "answer": str, "qID": str},
    "arc_easy": {"question": str, "choices": CHOICES, "answerKey": str},
    "lambada": {"text": str, "context": str, "target": str},
    "piqa": {"goal": str, "sol1": str, "sol2": str, "label": int},
    "wikitext2": {"text": str},
}
SIZES = {
    "scitail": {"train": 400, "validation": 120, "test": 160},
    "qasc": {"train": 300, "validation": 120},
    "mathqa": {"train": 400, "validation": 100, "test": 120},
    "mtnt": {"train": 300, "valid": 80, "test": 100},
    "multi30k_en_fr": {"train": 300, "validation": 80, "test_2016_flickr": 100},
    "winogrande": {"train_s": 64, "validation": 160},
    "arc_easy": {"test": 160},
    "lambada": {"test": 120},
    "piqa": {"validation": 60},
    "wikitext2": {"validation": 40, "test": 80},
}
LABELS: dict[str, tuple[str, list[Any]]] = {
    "scitail": ("label", ["entails", "neutral"]),
    "qasc": ("answerKey", list("ABCDEFGH")),
    "mathqa": ("correct", list("abcde")),
    "winogrande": ("answer", ["1", "2"]),
    "piqa": ("label", [0, 1]),
    "arc_easy": ("answerKey", list("ABCD")),
}
TRAINED = [name for name, sizes in SIZES.items() if any("train" in split for split in sizes)]
Row = dict[str, Any]


def load(name: str) -> dict[str, list[Row]]:
    return {
        path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (SAMPLE / name).glob("*.jsonl")
    }


def rows_of(name: str) -> list[Row]:
    return [row for rows in load(name).values() for row in rows]


def test_generating_again_gives_the_committed_bytes(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_sample.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, cwd=tmp_path)
    committed = {path.relative_to(SAMPLE): path.read_bytes() for path in SAMPLE.rglob("*.jsonl")}
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert committed.keys() == written.keys()
    assert [path for path in written if written[path] != committed[path]] == []


@pytest.mark.parametrize("name", SIZES)
def test_splits_have_the_stated_sizes(name: str) -> None:
    assert {split: len(rows) for split, rows in load(name).items()} == SIZES[name]


@pytest.mark.parametrize("name", FIELDS)
def test_rows_have_exactly_the_fields_of_the_original(name: str) -> None:
    for row in rows_of(name):
        assert list(row) == list(FIELDS[name])
        for field, kind in FIELDS[name].items():
            if isinstance(kind, dict):
                assert {key: type(value) for key, value in row[field].items()} == kind
                assert all(isinstance(item, str) for part in row[field].values() for item in part)
            else:
                assert type(row[field]) is kind


@pytest.mark.parametrize("name", TRAINED)
def test_no_training_row_is_evaluated(name: str) -> None:
    asked = {"premise", "hypothesis", "question", "Problem", "en", "sentence"}

    def essence(row: Row) -> tuple[str, ...]:
        return tuple(row[field] for field in row if field in asked)

    splits = load(name)
    seen = {essence(row) for split in splits if "train" in split for row in splits[split]}
    for split, rows in splits.items():
        if "train" not in split:
            assert seen.isdisjoint(map(essence, rows))


@pytest.mark.parametrize("name", [name for name in SIZES if name != "wikitext2"])
def test_no_row_occurs_twice(name: str) -> None:
    texts = [json.dumps(row) for row in rows_of(name)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_balanced(name: str) -> None:
    field, labels = LABELS[name]
    for rows in load(name).values():
        counts = Counter(row[field] for row in rows)
        assert set(counts) == set(labels)
        for label in labels:
            assert abs(counts[label] / len(rows) - 1 / len(labels)) < 0.02


# --- SciTail ---


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_scitail_is_not_solved_by_the_hypothesis_alone() -> None:
    splits = load("scitail")
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for row in splits["train"]:
        for word in words(row["hypothesis"]):
            votes[word][row["label"]] += 1

    def guess(row: Row) -> str:
        score = 0.0
        for word in words(row["hypothesis"]):
            seen = votes[word]
            score += (seen["entails"] - seen["neutral"]) / (seen.total() + 2)
        return "entails" if score > 0 else "neutral"

    right = sum(guess(row) == row["label"] for row in splits["test"])
    assert right / len(splits["test"]) < 0.6


def test_scitail_is_not_solved_by_shared_words() -> None:
    rows = rows_of("scitail")

    def shared(row: Row) -> float:
        hypothesis = words(row["hypothesis"])
        return len(hypothesis & words(row["premise"])) / len(hypothesis)

    overlaps = [(shared(row), row["label"] == "entails") for row in rows]
    best = max(
        sum((overlap >= bar) == entails for overlap, entails in overlaps)
        for bar, _ in [*overlaps, (2.0, True)]
    )
    assert best / len(rows) < 0.7


def test_every_scitail_premise_has_both_labels() -> None:
    labels = defaultdict(set)
    for row in rows_of("scitail"):
        labels[row["premise"]].add(row["label"])
    assert all(found == {"entails", "neutral"} for found in labels.values())


# --- Multiple choice ---


@pytest.mark.parametrize(("name", "letters"), [("qasc", "ABCDEFGH"), ("arc_easy", "ABCD")])
def test_questions_offer_different_options(name: str, letters: str) -> None:
    for row in rows_of(name):
        assert row["choices"]["label"] == list(letters)
        assert len(set(row["choices"]["text"])) == len(letters)


def test_qasc_answers_end_the_combined_fact() -> None:
    for row in rows_of("qasc"):
        choices = row["choices"]
        answer = choices["text"][choices["label"].index(row["answerKey"])]
        assert row["combinedfact"].endswith(f" {answer}.")
        assert row["fact1"].endswith(f" {answer}.")


def test_qasc_formats_the_question_with_its_options() -> None:
    for row in rows_of("qasc"):
        options = zip(row["choices"]["label"], row["choices"]["text"], strict=True)
        listed = " ".join(f"({label}) {text}" for label, text in options)
        assert row["formatted_question"] == f"{row['question']} {listed}"


# --- MathQA ---

OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "power": lambda a, b: a ** int(b),
}


def options_of(row: Row) -> dict[str, str]:
    text = row["options"]
    parts = ast.literal_eval(text) if text.startswith("[") else text.split(" , ")
    return dict(part.split(" ) ", 1) for part in parts)


def number_in(option: str) -> Fraction:
    """The only number or fraction of an option."""
    found = re.findall(r"\d+(?: / \d+)?", option.replace("km / h", ""))
    assert len(found) == 1, option
    return Fraction(found[0].replace(" ", ""))


def from_rationale(text: str) -> Fraction:
    """The arithmetic shown between the first two equals signs."""
    shown = text.split(" = ")[1]
    assert re.fullmatch(r"[\d ()+*/^-]+", shown), shown
    exact = re.sub(r"\d+", lambda match: f"Fraction({match.group()})", shown)
    value = eval(exact.replace("^", "**"), {"Fraction": Fraction})
    return Fraction(value)


def from_nested(text: str) -> Fraction:
    """`annotated_formula`, worked from the inside out by rewriting its innermost calls."""
    text = re.sub(r"const_(\d+)", r"\1", text)
    while call := re.search(r"(\w+)\(([-\d/]+), ([-\d/]+)\)", text):
        name, one, two = call.groups()
        value = OPERATIONS[name](Fraction(one), Fraction(two))
        text = text.replace(call.group(), str(value))
    return Fraction(text)


def from_steps(problem: str, steps: str) -> Fraction:
    """`linear_formula`, its `n0`, `n1`, ... read from the problem and `#0`, ... from the steps."""
    numbers = [Fraction(number) for number in re.findall(r"\d+", problem)]
    results: list[Fraction] = []
    for step in steps.strip("|").split("|"):
        name, inside = step.rstrip(")").split("(")
        values = []
        for item in inside.split(","):
            if item.startswith("const_"):
                values.append(Fraction(item[6:]))
            else:
                values.append((results if item[0] == "#" else numbers)[int(item[1:])])
        results.append(Fraction(OPERATIONS[name](*values)))
    return results[-1]


def test_mathqa_answers_are_computed() -> None:
    for row in rows_of("mathqa"):
        right = number_in(options_of(row)[row["correct"]])
        assert from_rationale(row["Rationale"]) == right
        assert from_nested(row["annotated_formula"]) == right
        assert from_steps(row["Problem"], row["linear_formula"]) == right


def test_mathqa_has_one_right_option_of_five() -> None:
    for row in rows_of("mathqa"):
        options = options_of(row)
        assert list(options) == list("abcde")
        assert len({number_in(option) for option in options.values()}) == 5
        assert row["Rationale"].strip('"').endswith(f"answer : {row['correct']}")


def test_mathqa_keeps_the_style_of_the_original() -> None:
    for rows in load("mathqa").values():
        assert all(row["Problem"] == row["Problem"].lower() for row in rows)
        listed = [row for row in rows if row["options"].startswith("['a ) ")]
        assert len(listed) == round(0.03 * len(rows))
        assert not any(row["linear_formula"].endswith("|") for row in listed)


# --- Translation ---


@pytest.mark.parametrize("name", ["mtnt", "multi30k_en_fr"])
@pytest.mark.parametrize("side", ["en", "fr"])
def test_no_sentence_is_translated_twice(name: str, side: str) -> None:
    texts = [row[side] for row in rows_of(name)]
    assert len(set(texts)) == len(texts)


def test_captions_are_plain_sentences() -> None:
    for row in rows_of("multi30k_en_fr"):
        for text in row.values():
            assert text.endswith(".")
            assert text[0].isupper()


def test_posts_are_noisy() -> None:
    rows = rows_of("mtnt")
    assert sum(row["en"][0].islower() for row in rows) > len(rows) / 2
    assert any(ord(letter) > 0x1F000 for row in rows for letter in row["en"])


# --- WinoGrande ---


def twins() -> list[list[Row]]:
    pairs: dict[str, list[Row]] = defaultdict(list)
    for row in rows_of("winogrande"):
        pairs[row["qID"].rsplit("-", 1)[0]].append(row)
    return list(pairs.values())


def test_winogrande_twins_change_the_answer_and_one_phrase() -> None:
    for one, two in twins():
        assert {one["answer"], two["answer"]} == {"1", "2"}
        assert (one["option1"], one["option2"]) == (two["option1"], two["option2"])
        first, second = one["sentence"].split(), two["sentence"].split()
        while first[0] == second[0]:
            first, second = first[1:], second[1:]
        while first and second and first[-1] == second[-1]:
            first, second = first[:-1], second[:-1]
        assert max(len(first), len(second)) <= 3


def test_winogrande_sentences_have_one_blank_and_name_both_options() -> None:
    for row in rows_of("winogrande"):
        assert row["sentence"].count("_") == 1
        assert row["option1"] in row["sentence"]
        assert row["option2"] in row["sentence"]
        assert row["qID"].endswith(f"-{row['answer']}")


def test_winogrande_options_are_in_either_order_equally_often() -> None:
    for rows in load("winogrande").values():
        firsts = [
            row["sentence"].index(row["option1"]) < row["sentence"].index(row["option2"]) for row in rows
        ]
        assert abs(sum(firsts) / len(rows) - 0.5) < 0.02


def test_winogrande_has_many_schemas() -> None:
    def schema(row: Row) -> str:
        text: str = row["sentence"]
        return text.replace(row["option1"], "?").replace(row["option2"], "?")

    assert len({schema(row) for row in rows_of("winogrande")}) >= 2 * 25


# --- PIQA, LAMBADA and WikiText ---


def test_piqa_solutions_share_words_and_do_not_tell_by_their_length() -> None:
    rows = rows_of("piqa")
    assert len({row["goal"] for row in rows}) == len(rows)
    for row in rows:
        assert row["sol1"] != row["sol2"]
        assert words(row["sol1"]) & words(row["sol2"])
    longer = [len(row[f"sol{row['label'] + 1}"]) > len(row[f"sol{2 - row['label']}"]) for row in rows]
    assert 0.3 < sum(longer) / len(rows) < 0.7


def test_lambada_targets_are_last_words_already_mentioned() -> None:
    for row in rows_of("lambada"):
        assert row["text"] == f"{row['context']} {row['target']}"
        assert row["target"].isalpha()
        assert row["target"] in re.findall(r"\w+", row["context"])


def test_wikitext_paragraphs_are_of_the_stated_length_and_unlike_each_other() -> None:
    texts = [row["text"] for row in rows_of("wikitext2")]
    assert all(text == " " or re.fullmatch(r" \S.*\S ", text) for text in texts)
    paragraphs = [text.split() for text in texts if text.strip() and not text.startswith(" =")]
    assert all(40 <= len(paragraph) <= 90 for paragraph in paragraphs)
    runs: Counter[tuple[str, ...]] = Counter()
    for paragraph in paragraphs:
        runs.update({tuple(paragraph[at : at + 8]) for at in range(len(paragraph) - 7)})
    assert max(runs.values()) == 1
