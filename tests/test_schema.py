"""Claims about the schema of the configuration: nothing in it is without effect."""

from __future__ import annotations

import ast
import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from test_identity import configured_classes

from gdo_cli.config.run_config import RunConfig, WandbConfig
from gdo_cli.data.config import DataConfig
from gdo_cli.data.dataset import Dataset
from gdo_cli.evaluation.config import EvaluationConfig
from gdo_cli.training.config import TrainConfig

PACKAGE = Path(__file__).resolve().parent.parent / "gdo_cli"
PARTS = [RunConfig, WandbConfig, DataConfig, Dataset, EvaluationConfig, TrainConfig, *configured_classes()]
FIELDS = sorted(
    {(k, f.name) for k in PARTS if k.__module__.startswith("gdo_cli.") for f in dataclasses.fields(k)},
    key=str,
)


def reads(tree: ast.AST) -> Counter[str]:
    """How often each name is read as an attribute, or stands as a word by which it may be looked up."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found[node.attr] += 1
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found[node.value] += 1
    return found


def checks(tree: ast.AST) -> Counter[str]:
    """Those in what a dataclass does when it is made, and in what that calls to check."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return sum(
        (reads(n) for n in nodes if n.name == "__post_init__" or n.name.startswith("_check")), Counter()
    )


TREES = [ast.parse(file.read_text("utf-8")) for file in PACKAGE.rglob("*.py")]
USED = sum(map(reads, TREES), Counter()) - sum(map(checks, TREES), Counter())


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{k.__name__}.{n}" for k, n in FIELDS])
def test_every_field_is_read_beyond_its_own_checks(kind: type, name: str) -> None:
    assert USED[name] > 0, f"{kind.__name__}.{name} has no effect"


def test_a_field_that_is_only_checked_is_found() -> None:
    lines = ["def __post_init__(self):", "    require(self.idle > 0)", "def f(self):", "    return self.used"]
    tree = ast.parse("\n".join(lines))
    assert (reads(tree) - checks(tree)).keys() >= {"used"}
    assert "idle" not in reads(tree) - checks(tree)
