"""The points of a grid, one after another. Finished ones return at once, so that the same command
resumes an interrupted sweep, and several processes on the same grid share the work."""

from __future__ import annotations

import time

from rich.markup import escape

from gdo_cli.data import resolve
from gdo_cli.errors import RunFailed, UserError
from gdo_cli.experiment import run
from gdo_cli.progress import console, errors, note
from gdo_cli.results import Busy, RunFolder
from gdo_cli.schema import RunConfig, replace_data

Point = tuple[list[str], RunConfig]


def run_points(points: list[Point], dry_run: bool = False) -> bool:
    """Run every point that is not done; report failures as they come. True if none failed.

    Args:
        dry_run: only say which points there are and which are done.
    """
    sources = {config.data: resolve(config.data) for _, config in points}  # the hub is asked once
    points = [(overrides, replace_data(config, sources[config.data])) for overrides, config in points]
    done = [RunFolder(config).load() is not None for _, config in points]
    console.print(f"{len(points)} points, {sum(done)} of them done already")
    if dry_run:
        for (overrides, config), finished in zip(points, done, strict=True):
            console.print(
                f"  {'done' if finished else 'open'}  {config.id}  {escape(' '.join(overrides))}",
                soft_wrap=True,
            )
        return True
    waiting = [point for point, finished in zip(points, done, strict=True) if not finished]
    for _, config in waiting:
        config.method.check(config)
    failed: list[tuple[list[str], Exception]] = []
    while waiting:
        waiting, busy = _pass(waiting, failed), len(waiting)
        if len(waiting) == busy:
            time.sleep(5)  # every open point is in the hands of another process
    for overrides, error in failed:
        console.print(f"[red]failed[/]  {escape(' '.join(overrides))}: {escape(str(error))}", soft_wrap=True)
    return not failed


def _pass(points: list[Point], failed: list[tuple[list[str], Exception]]) -> list[Point]:
    """Try each point once; returns those that another process is working on."""
    busy = []
    for number, (overrides, config) in enumerate(points, 1):
        note(f"point {number} of {len(points)}: {' '.join(overrides)}")
        try:
            run(config)
        except Busy:
            busy.append((overrides, config))
        except (UserError, RunFailed) as error:
            failed.append((overrides, error))
            errors.print(
                f"[red]failed[/] {escape(' '.join(overrides))}: {escape(str(error))}", soft_wrap=True
            )
    return busy
