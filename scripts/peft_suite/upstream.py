"""PEFT's test modules, imported from its unpacked source, with other cases in their tests.

Unpacked here or there: the folder that holds PEFT's ``tests`` is named by the variable of ``SOURCE``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = "PEFT_SUITE_SOURCE"
PACKAGE = "tests"  # its modules import each other by relative names


def load(name: str) -> Any:
    """Import one of PEFT's test modules, with the hub out of the way.

    Raises:
        RuntimeError: ``SOURCE`` names no folder with PEFT's tests.
    """
    if PACKAGE not in sys.modules:
        _open_package()
    return importlib.import_module(f"{PACKAGE}.{name}")


def _open_package() -> None:
    folder = Path(os.environ.get(SOURCE, ""), PACKAGE)
    if not (folder / "testing_common.py").is_file():
        raise RuntimeError(
            f"{SOURCE}={os.environ.get(SOURCE)!r} holds no {PACKAGE}/testing_common.py of PEFT"
        )
    _stand_in("diffusers", StableDiffusionPipeline=type("StableDiffusionPipeline", (), {}))
    _stand_in("attr", dataclass=dataclasses.dataclass)
    package = ModuleType(PACKAGE)  # another `tests` may lie on the path
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    pytest.register_assert_rewrite(PACKAGE)
    utilities = importlib.import_module(f"{PACKAGE}.testing_utils")
    vars(utilities)["hub_online_once"] = lambda model_id: nullcontext()


def _stand_in(name: str, **content: Any) -> None:
    """Where a module is missing that PEFT's tests import, put what no test here needs in earnest."""
    if find_spec(name) is None:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        sys.modules[name] = module


def replace_cases(module: Any, name: str, cases: Iterable[Any]) -> None:
    """Give the tests that are parametrised by ``module.name`` other cases.

    A mark holds the very object that was named, so it is found by identity.

    Raises:
        LookupError: no test is parametrised by it.
    """
    old, new, found = getattr(module, name), list(cases), False
    for function in _test_functions(module):
        marks = vars(function).get("pytestmark", [])
        for index, mark in enumerate(marks):
            if mark.name == "parametrize" and mark.args[1] is old:
                marks[index] = pytest.mark.parametrize(mark.args[0], new).mark
                found = True
    if not found:
        raise LookupError(f"no test of {module.__name__} is parametrised by {name}")


def _test_functions(module: Any) -> Iterator[Callable[..., Any]]:
    for value in vars(module).values():
        if inspect.isfunction(value):
            yield value
        elif inspect.isclass(value) and value.__module__ == module.__name__:
            yield from filter(inspect.isfunction, vars(value).values())
