"""``gdo plot``: experiments with a figure, their finished runs, and the figure drawn from them."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator, Sized
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.markup import escape

from gdo_cli.config.build import load_experiment
from gdo_cli.config.options import options
from gdo_cli.config.run_config import RunConfig
from gdo_cli.figures.drawing import Drawing
from gdo_cli.figures.finished import FinishedRuns
from gdo_cli.figures.spec import FigureSpec, read_spec
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import console
from gdo_cli.support.errors import UserError, require_one_of
from gdo_cli.support.markdown import table


@dataclass
class Plotted:
    """What came of one experiment.

    Attributes:
        files: what was written.
        said: lines for the terminal, in rich's markup.
        refused: why the runs that there are make no figure.
        absent: what is said of a figure that was asked for by name and has no run.
    """

    files: list[Path] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    refused: str = ""
    absent: str = ""


@dataclass(frozen=True)
class Chosen:
    """An experiment's figure, to be drawn.

    Attributes:
        plotted: what is to be said of it before.
        spec: how it is drawn; None if the experiment has no figure, or a wrong one.
        runs: what from; without any, nothing is drawn.
        stem: where to, a suffix apart.
        gap: how points without a run are filled in, if there are any.
    """

    name: str
    plotted: Plotted
    spec: FigureSpec | None = None
    runs: list[RunResult] = field(default_factory=list)
    stem: Path = Path()
    gap: list[str] = field(default_factory=list)


def plot_all(words: list[str], results: Path, config_dir: Path | None) -> list[Path]:
    """Draw the named figures, or all that the results allow; say what is missing and how to get it.

    Raises:
        UserError: an unknown figure, or one named without any run for it.
    """
    names = [word for word in words if "=" not in word]
    experiments = options("experiment", config_dir)
    figure_of = cache(partial(load_experiment, config_dir=config_dir))
    for name in names:
        if name not in experiments or figure_of(name) is None:
            require_one_of("figure", name, [e for e in experiments if figure_of(e)])
    overrides = [word for word in words if "=" in word]
    finished = FinishedRuns(results, config_dir)
    todo = (
        choose(name, figure_of(name), overrides, results, config_dir, finished)
        for name in names or experiments
    )
    written: list[Path] = []
    for plotted in _side_by_side(todo, len(names or experiments)):
        if plotted.refused and not names:
            console.print(f"  {plotted.refused}", markup=False, soft_wrap=True)
        for line in plotted.said:
            console.print(line, soft_wrap=True)
        if names and (why := plotted.refused or plotted.absent):
            raise UserError(why)
        written += plotted.files
    return written


def _side_by_side(figures: Iterator[Chosen], number: int) -> Iterator[Plotted]:
    """What comes of each, in their order: drawn on every core, while the runs of the next are looked for."""
    cores = min(os.cpu_count() or 1, number)
    if cores == 1:
        yield from map(draw, figures)
        return
    deaf = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process, which ends the others
    with ProcessPoolExecutor(cores, get_context("spawn"), signal.signal, deaf) as pool:
        try:
            yield from pool.map(draw, figures)
        finally:
            pool.shutdown(cancel_futures=True)


def choose(
    name: str,
    figure: Any,
    overrides: list[str],
    results: Path,
    config_dir: Path | None,
    finished: FinishedRuns,
) -> Chosen:
    """Return the runs that an experiment's figure is drawn from; none if it has no figure."""
    if figure is None:
        return Chosen(name, Plotted())
    try:
        spec = read_spec(figure, config_dir)
    except UserError as error:
        return Chosen(name, Plotted(refused=f"{name}: {error}"))
    plotted = Plotted()
    runs, missing = finished.of(name, overrides)
    others = [run for also in spec.others for run in finished.of(*also)[0]]
    found = {run.path: run for run in [*others, *runs]}
    kind = spec.analysis
    todo = [run for run in found.values() if kind and run.analysis(kind) is None]
    if kind and todo:
        plotted.said += _to_analyse(name, kind, todo, results)
    usable = [run for run in found.values() if run not in todo]
    if not any(run in usable for run in runs):
        there = "analysed" if kind else "finished"
        plotted.absent = f"{name}: no {there} run of its {len(runs) + len(missing)} points in {results}"
        usable = []
    gap = [_to_fill_in(name, overrides, missing, results, config_dir)] if missing else []
    return Chosen(name, plotted, spec, usable, results / "figures" / _file_name(name, overrides), gap)


def draw(chosen: Chosen) -> Plotted:
    """Draw a figure from its runs, if there are any."""
    plotted = chosen.plotted
    if chosen.spec and chosen.runs:
        try:
            drawing = chosen.spec.draw(chosen.runs)
        except UserError as error:
            plotted.refused = f"{chosen.name}: {error}"
            return plotted
        plotted.files = save(drawing, chosen.stem)
        drawn = escape(str(plotted.files[0]))
        plotted.said.append(f"[bold]{drawn}[/]  from {_counted(chosen.runs, 'run')}")
    plotted.said += chosen.gap
    return plotted


def _to_fill_in(
    name: str, overrides: list[str], missing: list[RunConfig], results: Path, config_dir: Path | None
) -> str:
    where = [] if str(results) == "results" else [f"results_dir={results}"]
    own = [f"--config-dir {config_dir}"] if config_dir else []
    command = " ".join(["gdo sweep", f"experiment={name}", *overrides, *where, *own])
    return f"  {name}: {_counted(missing, 'point')} missing; to fill in: {escape(command)}"


def _to_analyse(name: str, kind: str, todo: list[RunResult], results: Path) -> list[str]:
    where = "" if str(results) == "results" else f" --results {escape(str(results))}"
    return [
        f"  {name}: {_counted(todo, 'run')} not analysed; to do it:",
        *(f"    gdo analyze {kind} {escape(run.title)}{where}" for run in todo),
    ]


def _file_name(name: str, overrides: list[str]) -> str:
    """The figure's, with the options by which it is of something else than the experiment's own model."""
    chosen = [o.partition("=")[2] for o in overrides if o.partition("=")[0] in ("model", "train")]
    return "-".join([name, *chosen])


def _counted(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def save(drawing: Drawing, stem: Path) -> list[Path]:
    """Write PNG, PDF, CSV and a table if there is one; the same runs always give the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf, points = (stem.with_suffix(suffix) for suffix in (".png", ".pdf", ".csv"))
    drawing.figure.savefig(png, metadata={"Software": None})
    drawing.figure.set_layout_engine("none")  # it is laid out; doing so again takes as long as drawing
    drawing.figure.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    with points.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(drawing.points[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(drawing.points)
    if drawing.table:
        heading, *rows = drawing.table
        stem.with_suffix(".md").write_text(table(heading, rows, words=1) + "\n", "utf-8")
    return [png, pdf, points]
