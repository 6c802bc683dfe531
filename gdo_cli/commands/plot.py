"""``gdo plot``: experiments with a figure, their finished runs, and the figure drawn from them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sized
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.text import Text

from gdo_cli.config.build import load_experiment
from gdo_cli.config.options import options, options_with
from gdo_cli.config.run_config import RunConfig
from gdo_cli.figures.experiments import FinishedRuns, read_spec
from gdo_cli.figures.files import save
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import console, styled, visible
from gdo_cli.support.errors import UserError, require_one_of


@dataclass
class Plotted:
    """What came of one experiment.

    Attributes:
        files: what was written.
        said: lines for the terminal.
        refused: why the runs that there are make no figure.
        absent: what is said of a figure that was asked for by name and has no run.
    """

    files: list[Path] = field(default_factory=list)
    said: list[str | Text] = field(default_factory=list)
    refused: str = ""
    absent: str = ""


def plot_all(words: list[str], results: Path, config_dir: Path | None) -> list[Path]:
    """Draw the named figures, or all that the results allow; say what is missing and how to get it.

    Raises:
        UserError: an unknown figure, or one named without any run for it.
    """
    names = [word for word in words if "=" not in word]
    experiments = options("experiment", config_dir)
    figures = {name: load_experiment(name, config_dir) for name in names if name in experiments}
    for name in names:
        if figures.get(name) is None:
            require_one_of("figure", name, options_with("experiment", "figure", config_dir))
    overrides = [word for word in words if "=" in word]
    written: list[Path] = []
    todo = figures or dict.fromkeys(experiments)
    for plotted in _side_by_side(todo, (overrides, results, config_dir)):
        if plotted.refused and not names:
            console.print(f"  {plotted.refused}", soft_wrap=True)
        for line in plotted.said:
            console.print(line, soft_wrap=True)
        if names and (why := plotted.refused or plotted.absent):
            raise UserError(why)
        written += plotted.files
    return written


_plotter: Plotter  # of a process that draws beside others


class Plotter:
    """Draws one experiment after another, from runs that are read once."""

    def __init__(self, overrides: list[str], results: Path, config_dir: Path | None) -> None:
        self.overrides = overrides
        self.results = results
        self.config_dir = config_dir
        self.finished = FinishedRuns(results, config_dir)

    def plot(self, name: str, figure: Any) -> Plotted:
        """Draw an experiment's figure from its finished runs, if it has a figure and runs.

        Args:
            figure: what the experiment says of it; None: read now.
        """
        figure = figure or load_experiment(name, self.config_dir)
        if figure is None:
            return Plotted()
        plotted = Plotted()
        try:
            spec = read_spec(figure, self.config_dir)
        except UserError as error:
            return Plotted(refused=f"{name}: {error}")
        runs, missing = self.finished.of(name, self.overrides)
        others = [run for also in spec.others for run in self.finished.of(*also)[0]]
        found = {run.path: run for run in [*others, *runs]}
        kind = spec.analysis
        todo = [run for run in found.values() if kind and run.analysis(kind) is None]
        if kind and todo:
            plotted.said += _to_analyse(name, kind, todo, self.results)
        usable = [run for run in found.values() if run not in todo]
        if any(run in usable for run in runs):
            try:
                drawing = spec.draw(usable)
            except UserError as error:
                plotted.refused = f"{name}: {error}"
                return plotted
            plotted.files = save(drawing, self.results / "figures" / _file_name(name, self.overrides))
            drawn = (visible(str(plotted.files[0])), "bold")
            plotted.said.append(styled(drawn, f"  from {_counted(usable, 'run')}"))
        else:
            there = "analysed" if kind else "finished"
            n = len(runs) + len(missing)
            plotted.absent = f"{name}: no {there} run of its {n} points in {self.results}"
        if missing:
            plotted.said.append(_to_fill_in(name, self.overrides, missing, self.results, self.config_dir))
        return plotted


def _side_by_side(figures: dict[str, Any], given: tuple[Any, ...]) -> Iterable[Plotted]:
    """What comes of each, in their order; runs are looked for and figures drawn on every core."""
    cores = min(os.cpu_count() or 1, len(figures))
    if cores == 1:
        yield from map(Plotter(*given).plot, figures, figures.values())
        return
    with ProcessPoolExecutor(cores, get_context("spawn"), _begin, given) as pool:
        try:
            yield from pool.map(_plot, figures, figures.values())
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(*given: Any) -> None:
    global _plotter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends the others
    _plotter = Plotter(*given)


def _plot(name: str, figure: Any) -> Plotted:
    return _plotter.plot(name, figure)


def _to_fill_in(
    name: str, overrides: list[str], missing: list[RunConfig], results: Path, config_dir: Path | None
) -> str:
    where = [] if str(results) == "results" else [f"results_dir={results}"]
    own = [f"--config-dir {config_dir}"] if config_dir else []
    command = " ".join(["gdo sweep", f"experiment={name}", *overrides, *where, *own])
    return f"  {name}: {_counted(missing, 'point')} missing; to fill in: {visible(command)}"


def _to_analyse(name: str, kind: str, todo: list[RunResult], results: Path) -> list[str]:
    where = "" if str(results) == "results" else f" --results {visible(str(results))}"
    return [
        f"  {name}: {_counted(todo, 'run')} not analysed; to do it:",
        *(f"    gdo analyze {kind} {visible(run.title)}{where}" for run in todo),
    ]


def _file_name(name: str, overrides: list[str]) -> str:
    """The figure's, with the options by which it is of something else than the experiment's own model."""
    chosen = [o.partition("=")[2] for o in overrides if o.partition("=")[0] in ("model", "train")]
    return "-".join([name, *chosen])


def _counted(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
