"""What all analyses of a finished run share: done once, measured on base and run, kept beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment.reopen import Opened
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import Reporter, note
from gdo_cli.support.errors import UserError

Measure = Callable[[Opened, Reporter], dict[str, Any]]


def analyse_run(
    run: RunResult,
    kind: str,
    options: dict[str, Any],
    configure: Callable[[], RunConfig],
    measure: Measure,
    force: bool = False,
    beside: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what an analysis finds of a run; it is kept, and found again the next time.

    Args:
        options: of the analysis, as they are kept with it.
        configure: gives what the run is opened with.
        force: do it again.
        beside: files that belong to it; without them it is done again.
    Raises:
        UserError: no weights, no data, or it was done with other options.
    """
    if done := _found_before(run, kind, options, force, *beside):
        return done
    began = time.perf_counter()
    opened = Opened(configure(), run)
    with Reporter(f"{kind} {run.label}", 1) as reporter:
        found = measure(opened, reporter)
    record = {"run_name": run.title} | opened.record() | {"options": options} | found
    record["seconds"] = round(time.perf_counter() - began, 1)
    run.save_analysis(kind, record)
    return record


def _found_before(
    run: RunResult, kind: str, asked: dict[str, Any], force: bool, *beside: str
) -> dict[str, Any] | None:
    """What ``gdo analyze`` found of the run before, with the same options; None if it is to be done now.

    Args:
        asked: the options, as they are kept in the analysis.
        force: do it in any case.
        beside: files that belong to it; without them it is done again.
    Raises:
        UserError: it was done with other options, or it is to be done and the folder cannot be written.
    """
    folder = run.path / "analysis"
    done = None if force else run.analysis(kind)
    before = asked if done is None else done.get("options", {})
    if before != asked:
        other = ", ".join(f"{name}={before.get(name)}" for name in asked if before.get(name) != asked[name])
        raise UserError(f"{folder / kind}.json was made with {other}; --force puts a new one in its place")
    if done is not None and all((folder / name).is_file() for name in beside):
        note(f"already done: {folder / kind}.json")
        return done
    run.analysis_folder()  # better refused now than after the measuring
    return None
