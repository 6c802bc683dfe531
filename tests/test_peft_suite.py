"""How PEFT's own tests are run (scripts/peft_suite); what comes of them is `make test-peft`."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
import yaml
from peft_suite.__main__ import SUITES, problems_of, record
from peft_suite.cases import LoneColumn
from peft_suite.plugin import EXCEPTIONS, exceptions
from peft_suite.upstream import load, replace_cases

ENDED = {"passed": 3, "xfailed": 0, "skipped": 1, "failed": 0, "error": 0, "reasons": {}}


def a_test_module() -> Any:
    module: Any = ModuleType("theirs")
    module.CASES, module.OTHERS, module.UNUSED = (1, 2), [1, 2], []

    class TestTheirs:
        @pytest.mark.parametrize("case", module.CASES)
        @pytest.mark.parametrize("other", module.OTHERS)
        def test_it(self, case: int, other: int) -> None: ...

    TestTheirs.__module__ = "theirs"
    module.TestTheirs = TestTheirs
    return module


def test_cases_are_replaced_where_a_test_is_parametrised_by_them() -> None:
    """Equal ones of another list stay."""
    module = a_test_module()
    replace_cases(module, "CASES", [7])
    marks = vars(module.TestTheirs.test_it)["pytestmark"]
    assert [(mark.args[0], [*mark.args[1]]) for mark in marks] == [("other", [1, 2]), ("case", [7])]


def test_cases_that_no_test_has_are_refused() -> None:
    with pytest.raises(LookupError, match="no test of theirs is parametrised by UNUSED"):
        replace_cases(a_test_module(), "UNUSED", [7])


def test_without_the_source_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFT_SUITE_SOURCE", "/nowhere")
    with pytest.raises(RuntimeError, match="PEFT_SUITE_SOURCE='/nowhere' holds no tests/testing_common"):
        load("test_config")


def test_what_is_listed_names_suites_and_gives_reasons() -> None:
    listed = yaml.safe_load(EXCEPTIONS.read_text("utf-8"))
    assert {*listed} <= {*SUITES}
    for suite in listed:
        for pattern, reason in exceptions(suite).items():
            re.compile(pattern)
            assert len(reason.split()) > 3
        assert len({*exceptions(suite).values()}) == len(exceptions(suite))  # they are told apart by it


def test_the_target_fails_for_what_is_not_listed_and_for_what_is_listed_in_vain() -> None:
    assert problems_of("test_none", ENDED) == []
    assert "2 failed that are not listed" in problems_of("test_none", ENDED | {"failed": 1, "error": 1})[0]
    suite = next(iter(yaml.safe_load(EXCEPTIONS.read_text("utf-8"))))
    told = problems_of(suite, ENDED)
    assert len(told) == len(exceptions(suite)) > 0
    assert "no test fails as listed by" in told[0]
    assert problems_of(suite, ENDED | {"reasons": dict.fromkeys(exceptions(suite).values(), 1)}) == []


def test_a_suite_that_ran_alone_leaves_the_others_numbers() -> None:
    first = record({"test_a": ENDED, "test_b": ENDED}, {})
    second = record({"test_b": ENDED | {"passed": 9}}, first)
    assert {name: suite["passed"] for name, suite in second["suites"].items()} == {"test_a": 3, "test_b": 9}
    old = first | {"versions": {"peft": "0.1"}}
    assert [*record({"test_b": ENDED}, old)["suites"]] == ["test_b"]


def test_a_lone_column_brings_the_row_that_reads_it() -> None:
    config = LoneColumn(target_modules=["layers.0.lin0", "layers.1.lin0"])
    assert config.target_modules == {"layers.0.lin0", "layers.0.row", "layers.1.lin0", "layers.1.row"}
    assert sorted(config.row_modules or ()) == ["layers.0.row", "layers.1.row"]
