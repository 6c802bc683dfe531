"""The cache of base evaluations: the same numbers without the work, and never another model's numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RUN, RunFactory

from gdo_cli.config.build import load_run
from gdo_cli.evaluation import base_cache as basecache
from gdo_cli.evaluation.base_cache import base_evaluation
from gdo_cli.evaluation.evaluator import Evaluation, Evaluator
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import Opened, build_evaluator, read_run_data
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.tokens import Encoded, Encoder
from gdo_cli.models.loading import Loaded
from gdo_cli.tasks.scitail import SciTail

FACTS = {"weights": "a" * 64, "dtype": "torch.float32", "machine": {"cpu": "A processor"}}
MEASURED = Evaluation(
    {"task/exact_match": 0.1 + 0.2, "task/loss": float("nan")},
    [{"part": "task/validation", "item": 0, "answer": "é\u2028", "correct": True}],
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own; returns the folder of the evaluations."""
    monkeypatch.setenv("GDO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluations"


@pytest.fixture(scope="module")
def original(tiny_loaded: Loaded) -> Evaluator:
    config = load_run([*TINY_RUN])
    return build_evaluator(config, read_run_data(config), Encoder.of(tiny_loaded.tokenizer, []))


@pytest.fixture
def suite(original: Evaluator) -> Evaluator:
    """One to change."""
    own = copy.copy(original)
    own.splits = copy.deepcopy(original.splits)
    own.probes = copy.deepcopy(original.probes)
    return own


def measured(suite: Evaluator, **facts: Any) -> bool:
    """Whether the evaluation had to be computed; whatever is returned must be what it gave."""
    calls: list[int] = []

    def evaluate() -> Evaluation:
        calls.append(1)
        return MEASURED

    found = base_evaluation(suite, FACTS | facts, evaluate)
    assert repr(found) == repr(MEASURED)  # NaN is not equal to itself
    return bool(calls)


# ---------------------------------------------------------------------------------------------- hits


def test_the_second_time_the_same_numbers_come_without_evaluating(
    suite: Evaluator, original: Evaluator
) -> None:
    assert measured(suite)
    assert not measured(suite)
    assert not measured(original)


def test_two_methods_on_one_base_measure_it_once(
    tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, calls = Evaluator.evaluate, []

    def counted(self: Evaluator, lm: AnswerLM, *rest: Any) -> Evaluation:
        calls.append(type(lm.model).__name__)
        return usual(self, lm, *rest)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    first = experiment.run(tiny_run("train.steps=1"))
    other = experiment.run(tiny_run("train.steps=1", "method=sft", "seed=1"))
    assert calls == [
        "PeftModelForCausalLM",
        "PeftModelForCausalLM",
        "Gemma3ForCausalLM",
    ]  # after step 1 each measures itself
    assert other.evaluations[0] == first.evaluations[0]


# -------------------------------------------------------------------------------------------- misses


def another_answer(suite: Evaluator) -> None:
    example, query = suite.splits["validation"][3]
    suite.splits["validation"][3] = (example, Encoded(query.context, [*query.continuation[::-1], 9]))


def another_prompt(suite: Evaluator) -> None:
    suite.splits["validation"][0][1].context[-1] += 1


def one_item_less(suite: Evaluator) -> None:
    suite.splits["validation"].pop()


def another_order(suite: Evaluator) -> None:
    suite.splits["validation"].reverse()


def another_probe_token(suite: Evaluator) -> None:
    suite.probes["winogrande"][-1].queries[-1].continuation[0] += 1


def another_solution(suite: Evaluator) -> None:
    item = suite.probes["winogrande"][0]
    item.row = {**item.row, "answer": "2" if item.row["answer"] == "1" else "1"}


def no_probe(suite: Evaluator) -> None:
    suite.probes = {}


def fewer_prompts_for_the_divergence(suite: Evaluator) -> None:
    suite.config = replace(suite.config, kl_prompts=1)


def answers_of_several_lines(suite: Evaluator) -> None:
    """The same tokens asked, but other tokens end an answer."""
    suite.task = _ManyLines(suite.task.dataset)


class _ManyLines(SciTail):
    multiline = True


CHANGES: list[Callable[[Evaluator], None]] = [
    another_answer,
    another_prompt,
    one_item_less,
    another_order,
    another_probe_token,
    another_solution,
    no_probe,
    fewer_prompts_for_the_divergence,
    answers_of_several_lines,
]


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_what_is_asked_is_measured_anew(
    suite: Evaluator, change: Callable[[Evaluator], None]
) -> None:
    assert measured(suite)
    change(suite)
    assert measured(suite)


@pytest.mark.parametrize(
    "facts",
    [{"weights": "b" * 64}, {"dtype": "torch.bfloat16"}, {"machine": {"cpu": "Another"}}],
    ids=lambda facts: next(iter(facts)),
)
def test_other_weights_precision_or_machine_are_measured_anew(
    suite: Evaluator, facts: dict[str, Any]
) -> None:
    assert measured(suite)
    assert measured(suite, **facts)


def test_other_code_measures_anew(suite: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(suite)
    monkeypatch.setattr(basecache, "code_sha256", lambda *rooms: "c" * 64)
    assert measured(suite)


def test_a_run_tells_the_cache_its_weights_and_its_precision(tiny_loaded: Loaded) -> None:
    """What a run hands over changes with the weights' checksum and the dtype it computes in."""
    opened = Opened(load_run([*TINY_RUN]))
    opened.loaded = replace(tiny_loaded, provenance={"sha256": "a"})
    first = opened.facts
    opened.loaded = replace(tiny_loaded, provenance={"sha256": "b"})
    second = opened.facts
    opened.dtype = torch.bfloat16
    assert len({json.dumps(facts, sort_keys=True) for facts in (first, second, opened.facts)}) == 3


# -------------------------------------------------------------------------------------------- broken


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"metrics": {}', b"\xff", b"[]", b"null", b"{}", b'{"other": 1}'], ids=repr
)
def test_a_corrupt_file_is_computed_again_and_mended(suite: Evaluator, cache: Path, content: bytes) -> None:
    assert measured(suite)
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert measured(suite)
    assert not measured(suite)


def test_a_number_that_has_changed_in_the_file_is_noticed(suite: Evaluator, cache: Path) -> None:
    assert measured(suite)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-20].replace(b"0.", b"1.", 1) + file.read_bytes()[-20:])
    assert measured(suite)


def test_a_cache_that_cannot_be_written_costs_only_time(suite: Evaluator, cache: Path) -> None:
    cache.parent.mkdir()
    cache.touch()  # a file where the folder should be
    assert measured(suite)
    assert measured(suite)
