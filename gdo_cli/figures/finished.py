"""The finished runs of an experiment: what figures and the report are made of."""

from __future__ import annotations

from pathlib import Path

from gdo_cli.config.grid import load_grid
from gdo_cli.config.run_config import RunConfig
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import RunResult


def finished(
    experiment: str, overrides: list[str], results: Path, config_dir: Path | None
) -> tuple[list[RunResult], list[RunConfig]]:
    """Finished runs of an experiment's grid, in its order, and the points without one."""
    runs, missing = [], []
    points = load_grid([f"experiment={experiment}", f"results_dir={results}", *overrides], config_dir)
    for _, config in points:
        found = RunFolder(config.path).load()
        if found is not None:
            runs.append(found)
        else:
            missing.append(config)
    return runs, missing
