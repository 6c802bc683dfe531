"""One of the processes that test_distributed.py starts: runs every point of a JSON list of overrides.

``GDO_TEST_FAIL=RANK:STEP`` lets the process of that rank fail in the step of that number that it takes.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

from gdo_cli.config.build import load_run
from gdo_cli.experiment import run as experiment
from gdo_cli.training import loop as training


def fail_in(step: int) -> None:
    usual, steps = training._backward, count(1)

    def backward(*args: Any) -> Any:
        if next(steps) == step:
            raise ValueError("broken on purpose")
        return usual(*args)

    training._backward = backward  # type: ignore[assignment]


if __name__ == "__main__":
    rank, _, step = os.environ.get("GDO_TEST_FAIL", "").partition(":")
    if rank == os.environ["RANK"]:
        fail_in(int(step))
    for overrides in json.loads(Path(sys.argv[1]).read_text()):
        experiment.run(load_run(overrides))
