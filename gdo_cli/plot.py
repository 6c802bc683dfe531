"""``gdo plot``: experiments with a figure, their finished runs, and the figure drawn from them."""

from __future__ import annotations

import csv
from collections.abc import Sized
from importlib import import_module
from pathlib import Path
from typing import Any

from gdo_cli.config import load_experiment, options
from gdo_cli.errors import UserError, require_one_of
from gdo_cli.figures import Drawing
from gdo_cli.finished import finished
from gdo_cli.progress import console
from gdo_cli.results import RunResult


def plot_all(words: list[str], results: Path, config_dir: Path | None) -> list[Path]:
    """Draw the named figures, or all that the results allow; say what is missing and how to get it.

    Raises:
        UserError: an unknown figure, or one named without any run for it.
    """
    names = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    specs = {name: load_experiment(name, config_dir) for name in options("experiment", config_dir)}
    known = [name for name, spec in specs.items() if spec]
    for name in names:
        require_one_of("figure", name, known)
    written: list[Path] = []
    for name in names or known:
        spec = specs[name] or {}
        runs, missing = finished(name, overrides, results, config_dir)
        n_points = len(runs) + len(missing)
        found = {run.path: run for run in [*_others(spec, results, config_dir), *runs]}
        if kind := spec.get("analysis"):  # what `gdo analyze` keeps beside a run
            found = {run.path: run for run in _analysed(list(found.values()), kind, name, results)}
            runs = [run for run in runs if run.path in found]
        if runs:
            try:
                drawing = _draw(list(found.values()), spec)
            except UserError as error:  # the runs there are do not hold what the figure shows
                if names:
                    raise
                console.print(f"  {name}: {error}", markup=False, soft_wrap=True)
                continue
            written += save(drawing, results / "figures" / _file_name(name, overrides))
            console.print(f"[bold]{written[-3]}[/]  from {_counted(found, 'run')}", soft_wrap=True)
        if missing:
            where = [] if str(results) == "results" else [f"results_dir={results}"]
            own = [f"--config-dir {config_dir}"] if config_dir else []
            command = " ".join(["gdo sweep", f"experiment={name}", *overrides, *where, *own])
            console.print(
                f"  {name}: {_counted(missing, 'point')} missing; to fill in: {command}", soft_wrap=True
            )
        if names and not runs:
            kind = "analysed" if spec.get("analysis") else "finished"
            raise UserError(f"{name}: no {kind} run of its {n_points} points in {results}")
    return written


def _file_name(name: str, overrides: list[str]) -> str:
    """The figure's, with the options by which it is of something else than the experiment's own model."""
    chosen = [o.partition("=")[2] for o in overrides if o.partition("=")[0] in ("model", "train")]
    return "-".join([name, *chosen])


def _counted(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _others(spec: dict[str, Any], results: Path, config_dir: Path | None) -> list[RunResult]:
    """Finished runs of other experiments that belong in the figure (``with``: one of them, or a list)."""
    named = spec.get("with") or []
    return [
        run
        for also in ([named] if isinstance(named, dict) else named)
        for run in finished(also["experiment"], also.get("overrides", []), results, config_dir)[0]
    ]


def _analysed(runs: list[RunResult], kind: str, name: str, results: Path) -> list[RunResult]:
    """The runs that have the analysis which the figure is of; for the others, how they get it."""
    done = [run for run in runs if run.analysis(kind) is not None]
    if len(done) < len(runs):
        where = "" if str(results) == "results" else f" --results {results}"
        console.print(f"  {name}: {len(runs) - len(done)} runs not analysed; to do it:", soft_wrap=True)
        for run in runs:
            if run not in done:
                console.print(f"    gdo analyze {kind} {run.title}{where}", soft_wrap=True)
    return done


def _draw(runs: list[RunResult], spec: dict[str, Any]) -> Drawing:
    module = import_module(f"gdo_cli.figures.{spec['kind']}")
    drawing: Drawing = module.draw(runs, spec)
    return drawing


def save(drawing: Drawing, stem: Path) -> list[Path]:
    """Write PNG, PDF, CSV and a table if there is one; the same runs always give the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf, table = (stem.with_suffix(suffix) for suffix in (".png", ".pdf", ".csv"))
    drawing.figure.savefig(png, metadata={"Software": None})
    drawing.figure.set_layout_engine("none")  # it is laid out; doing so again takes as long as drawing
    drawing.figure.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(drawing.points[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(drawing.points)
    if drawing.table:
        heading, *rows = drawing.table
        lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        stem.with_suffix(".md").write_text(text, "utf-8")
    return [png, pdf, table]
