"""What all analyses of a finished run share: done once, measured on base and run, kept beside it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from gdo_cli.config.build import rebuild
from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment.reopen import Opened
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import Reporter, note
from gdo_cli.support.errors import UserError


@dataclass(frozen=True)
class Analysis(ABC):
    """What is measured of a run and of its base; its fields are options, kept with what it finds."""

    kind: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()  # files that belong to it; without them it is done again

    def configure(self, run: RunResult, config_dir: Path | None) -> RunConfig:
        """Return what the run is opened with: here its own settings, every row of its task, and no probe."""
        config = rebuild(run, config_dir)
        return replace(config, probe={}, evaluation=replace(config.evaluation, items=None, final_items=0))

    @abstractmethod
    def measure(self, opened: Opened, run: RunResult, reporter: Reporter) -> dict[str, Any]:
        """Return what is kept, as plain data."""


def analyse(
    run: RunResult, analysis: Analysis, config_dir: Path | None, force: bool = False
) -> dict[str, Any]:
    """Return what an analysis finds of a run; it is kept, and found again the next time.

    Args:
        force: do it again.
    Raises:
        UserError: no weights, no data, a folder that cannot be written, or it was done with other options.
    """
    values = {field.name: getattr(analysis, field.name) for field in fields(analysis)}
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    file = run.path / "analysis" / f"{analysis.kind}.json"
    done = None if force else run.analysis(analysis.kind)
    before = options if done is None else done.get("options", {})
    if before != options:
        other = [f"{key}={before.get(key)}" for key, value in options.items() if before.get(key) != value]
        raise UserError(f"{file} was made with {', '.join(other)}; --force puts a new one in its place")
    if done is not None and all((file.parent / name).is_file() for name in analysis.beside):
        note(f"already done: {file}")
        return done
    run.analysis_folder()  # better refused now than after the measuring
    began = time.perf_counter()
    opened = Opened(analysis.configure(run, config_dir), run)
    with Reporter(f"{analysis.kind} {run.label}", 1) as reporter:
        found = analysis.measure(opened, run, reporter)
    record = {"run_name": run.title} | opened.record() | {"options": options} | found
    record["seconds"] = round(time.perf_counter() - began, 1)
    run.save_analysis(analysis.kind, record)
    return record
