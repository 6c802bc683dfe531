"""The finished runs of an experiment: what figures and the report are made of."""

from __future__ import annotations

from pathlib import Path

from gdo_cli.grid import load_grid
from gdo_cli.results import RunFolder, RunResult
from gdo_cli.schema import RunConfig


def finished(
    experiment: str, overrides: list[str], results: Path, config_dir: Path | None
) -> tuple[list[RunResult], list[RunConfig]]:
    """Finished runs of an experiment's grid, in its order, and the points without one."""
    runs, missing = [], []
    points = load_grid([f"experiment={experiment}", f"results_dir={results}", *overrides], config_dir)
    for _, config in points:
        found = RunFolder(config).load()
        if found is not None:
            runs.append(found)
        else:
            missing.append(config)
    return runs, missing
