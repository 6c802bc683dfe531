"""The finished runs of an experiment: what figures and the report are made of."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from gdo_cli.config.compose import Composer
from gdo_cli.config.grid import load_grid
from gdo_cli.config.run_config import RunConfig
from gdo_cli.runs.find import index_runs
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import RunResult

Found = tuple[list[RunResult], list[RunConfig]]


class FinishedRuns:
    """The finished runs below a folder of results, read once, as the experiments ask for them."""

    def __init__(self, results: Path, config_dir: Path | None = None) -> None:
        self._results = results
        self._composer = Composer(config_dir)
        self._found: dict[tuple[str, ...], Found] = {}

    def of(self, experiment: str, overrides: list[str]) -> Found:
        """Return the finished runs of an experiment's grid, in its order, and the points without one.

        Raises:
            UserError: a point that cannot be composed, or whose result cannot be read.
        """
        words = (f"experiment={experiment}", f"results_dir={self._results}", *overrides)
        if words not in self._found:
            points = load_grid(list(words), self._composer)
            found = [(config, self._run(config)) for _, config in points]
            runs = [run for _, run in found if run is not None]
            self._found[words] = runs, [config for config, run in found if run is None]
        return self._found[words]

    def _run(self, config: RunConfig) -> RunResult | None:
        """The run with these settings; a result that cannot be read is an error, not a missing point."""
        return self._index.get((config.id, config.seed)) or RunFolder(config.path).load()

    @cached_property
    def _index(self) -> dict[tuple[str, int], RunResult]:
        return index_runs(self._results)
