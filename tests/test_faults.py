"""The long form: every fault of ``scripts/reliability`` brought about for real, and nothing lost by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from reliability.faults import FAULTS
from reliability.registry import Fault


@pytest.mark.faults
@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in FAULTS])
def test_nothing_is_lost(fault: Fault, tmp_path: Path) -> None:
    try:
        outcome = fault.work(tmp_path, fault.quick)
    except PermissionError as error:
        pytest.skip(str(error))
    assert outcome.wrong == []
