"""A pytest plugin: which of PEFT's tests are about growth, and which of those are known not to apply.

A listed test is marked as a strict xfail: it has to fail, and where it passes the run fails.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from gdo_cli.growth import GrowConfig

EXCEPTIONS = Path(__file__).with_name("exceptions.yaml")
OUTCOMES = "PEFT_SUITE_OUTCOMES"  # names the file that takes the numbers
SEED = 0


def exceptions(suite: str) -> dict[str, str]:
    """Return the reason for each pattern of ids of tests that do not apply."""
    listed: dict[str, dict[str, str]] = yaml.safe_load(EXCEPTIONS.read_text("utf-8"))
    return listed.get(suite, {})


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    kept = [item for item in items if _is_about_growth(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
    for item in items:
        for pattern, reason in exceptions(item.path.stem).items():
            if re.search(pattern, item.nodeid.partition("::")[2]):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
                break


def _is_about_growth(item: Any) -> bool:
    """Whether one of its parameters is of growth, or its suite names it or its class in ``ALSO``."""
    if {item.originalname, item.cls and item.cls.__name__} & {*getattr(item.module, "ALSO", ())}:
        return True
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return any(
        isinstance(part, GrowConfig) or (isinstance(part, type) and issubclass(part, GrowConfig))
        for part in parts
    )


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    stats = terminalreporter.stats
    names = ("passed", "xfailed", "skipped", "failed", "error")
    numbers: dict[str, Any] = {name: len(stats.get(name, ())) for name in names}
    reasons = Counter(report.wasxfail for report in stats.get("xfailed", ()))
    Path(os.environ[OUTCOMES]).write_text(json.dumps(numbers | {"reasons": reasons}), "utf-8")
