"""The points of a sweep: checked, planned, run by one of Hydra's launchers, and accounted for. Finished
points return at once, so that the same command resumes an interrupted sweep on any launcher, and several
processes on the same grid share the work."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Column, Table

from gdo_cli.commands.sweep.estimate import Estimator
from gdo_cli.config.build import load_run
from gdo_cli.config.grid import Point, Sweep
from gdo_cli.config.launch import Outcome, launch, search
from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.rows import require_source
from gdo_cli.experiment.layers import needs_pilot, pilot_config
from gdo_cli.experiment.plan import why_not
from gdo_cli.experiment.run import run
from gdo_cli.experiment.weights import check_method
from gdo_cli.runs.folder import Busy, RunFolder
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import console, label_lines, note, tell, visible, warn
from gdo_cli.support.errors import RunFailed, UserError, require

WAIT_S = 5.0


@dataclass(frozen=True)
class Job:
    """Runs a point, in whatever process the launcher has put it; never raises but to stop the sweep.

    A point of a grid is run as it was checked where the sweep began; one that a search has chosen since is
    composed from its overrides.
    """

    folder: str  # the working directory there
    alone: bool  # whether it is the sweep's own process; elsewhere, every line bears the label
    planned: dict[tuple[str, ...], RunConfig]  # by overrides
    labels: dict[tuple[str, ...], str]  # what tells each point from the others
    shared: frozenset[str] = frozenset()  # overrides that all points of a search have
    config_dir: Path | None = None

    def __call__(self, words: list[str]) -> Outcome:
        label = self.labels.get(tuple(words)) or " ".join(word for word in words if word not in self.shared)
        config = self.planned.get(tuple(words))
        with contextlib.chdir(self.folder), contextlib.nullcontext() if self.alone else label_lines(label):
            if self.alone:
                number = list(self.planned).index(tuple(words)) + 1 if config else 0
                note(f"point {number} of {len(self.planned)}: {label}" if number else f"point: {label}")
            try:
                if config is None:
                    found = _patiently(load_run(words, self.config_dir))
                    return Outcome(words, score=found.validation_score)
                run(config)
                return Outcome(words)
            except Busy:
                return Outcome(words, busy=True)
            except (UserError, RunFailed) as error:
                told = str(error)
            except Exception as error:
                traceback.print_exc()
                told = f"{type(error).__name__}: {error}"
            shown = f"{label}: {told}" if self.alone else told
            tell("failed", "red", shown)
            return Outcome(words, error=told)


def run_sweep(sweep: Sweep, dry_run: bool = False, skip_invalid: bool = False) -> bool:
    """Run every point that is not done; report failures as they come, and all of them at the end.

    Args:
        dry_run: only say which points there are, which are done, and what the others would cost.
        skip_invalid: leave impossible points out.
    Returns:
        Whether every point that is possible is done now.
    Raises:
        UserError: points that are impossible.
    """
    sweep = _checked(sweep)
    if sweep.impossible and not (skip_invalid and sweep.points and not sweep.searches):
        raise sweep.refusal()
    for words, reason in sweep.impossible:
        warn(f"skipped {sweep.label(words)}: {reason}")
    _notice_depths(sweep)
    if sweep.searches:
        return _search(sweep, dry_run)
    work = _Work(sweep)
    work.announce()
    if dry_run:
        work.print_points()
        return True
    return work.run()


def _checked(sweep: Sweep) -> Sweep:
    """The sweep without the points that cannot be run."""
    points, impossible = [], list(sweep.impossible)
    for words, config in sweep.points:
        try:
            if RunFolder(config.path).load() is None:
                require_source(config.data)
                check_method(config)
                reason = why_not(config)
                require(reason is None, str(reason))
            points.append((words, config))
        except UserError as error:
            impossible.append((words, str(error)))
    return replace(sweep, points=points, impossible=impossible)


def _notice_depths(sweep: Sweep) -> None:
    """Say where a number of layers means all of them."""
    chosen = ((getattr(config.method, "layers", "all"), config) for _, config in sweep.points)
    asked = {(n, config.name["model"]): config.model for n, config in chosen if isinstance(n, int)}
    for (n, name), model in asked.items():
        depth = model.depth(name)
        if depth is not None and n > depth:
            note(f"layers={n}: {name} has {depth} layers, so all of them")


class _Work:
    """A grid on its way: what is open, and what has failed."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.open = [point for point in sweep.points if not _done(point)]
        self.pilots = _pilots(self.open)
        planned = {tuple(words): config for words, config in [*self.pilots, *self.open]}
        self.labels = {tuple(words): sweep.label(words) for words, _ in self.open}
        for words, config in self.pilots:
            self.labels[tuple(words)] = f"pilot {RunFolder(config.path).title}"
        self.job = Job(str(Path.cwd()), sweep.launcher == "basic", planned, self.labels)
        self.failed: dict[Path, tuple[str, str]] = {}  # label, and why

    def announce(self) -> None:
        n, n_open = len(self.sweep.points), len(self.open)
        console.print(f"{n} points, {n - n_open} of them done already")
        if self.pilots:
            shown = ", ".join(RunFolder(config.path).title for _, config in self.pilots)
            note(f"before them, to rank layers by, pilot runs of SFT: {shown}")

    def print_points(self) -> None:
        """Every point, and what those that are open would cost."""
        estimator = Estimator(self.sweep.points[0][1].results_dir)
        numbers = (Column(name, justify="right") for name in ("hours", "GiB"))
        table = _table("", "run", *numbers, Column("point", overflow="fold"))
        estimates = []
        for words, config in [*self.pilots, *self.sweep.points]:
            if _done((words, config)):
                table.add_row("done", config.id, "", "", visible(self.sweep.label(words)))
                continue
            estimates.append(estimate := estimator.estimate(config))
            hours = "?" if estimate.hours is None else f"{estimate.hours:.2f}"
            memory = "?" if estimate.memory is None else f"{estimate.memory / 2**30:.1f}"
            table.add_row("open", config.id, hours, memory, visible(self.labels[tuple(words)]))
        console.print(table)
        if estimates:
            total = sum(estimate.hours or 0 for estimate in estimates)
            most = max(estimate.memory or 0 for estimate in estimates) / 2**30
            told = f"about {total:.1f} h one after another, {most:.1f} GiB at the most; "
            console.print(told + estimator.sources(estimates), style="dim")

    def run(self) -> bool:
        """Run what is open; True if nothing failed."""
        self.run_stage([*self.pilots, *(point for point in self.open if not needs_pilot(point[1]))])
        then = [point for point in self.open if needs_pilot(point[1])]
        for words, config in then:
            if failed := self.failed.get(pilot_config(config).path):
                self.failed[config.path] = self.labels[tuple(words)], f"its pilot: {failed[1]}"
        self.run_stage([point for point in then if point[1].path not in self.failed])
        self.report()
        return not self.failed

    def run_stage(self, points: list[Point]) -> None:
        """Run points that need not wait for each other, and wait for those that others work on."""
        waiting = list({config.path: (words, config) for words, config in points}.values())
        while waiting:
            results_dir = Path(waiting[0][1].results_dir)
            outcomes = launch(self.sweep, [words for words, _ in waiting], self.job, results_dir)
            told = {tuple(outcome.words): outcome for outcome in outcomes}
            for words, config in waiting:
                if error := told[tuple(words)].error:
                    self.failed[config.path] = self.labels[tuple(words)], error
            waiting = _when_free([point for point in waiting if told[tuple(point[0])].busy])

    def report(self) -> None:
        done = len(self.sweep.points) - sum(not _done(point) for point in self.sweep.points)
        console.print(f"{done} of {len(self.sweep.points)} points done")
        if self.failed:
            table = _table("failed", "why")
            for label, error in self.failed.values():
                table.add_row(visible(label), visible(error))
            console.print(table)


def _table(*columns: str | Column) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="dim")


def _done(point: Point) -> bool:
    return RunFolder(point[1].path).load() is not None


def _pilots(points: list[Point]) -> list[Point]:
    """Pilot runs that the points need, and that are neither done nor among them."""
    among = {config.path for _, config in points}
    pilots = [pilot_config(config) for _, config in points if needs_pilot(config)]
    missing = {pilot.path: (pilot.overrides, pilot) for pilot in pilots}
    return [point for path, point in missing.items() if path not in among and not _done(point)]


def _when_free(points: list[Point]) -> list[Point]:
    """Points that other processes work on, as soon as one of them is free: those that are not done."""
    if points:
        note(f"{len(points)} points are in the hands of another process; waiting for it")
    held = len(points)
    while points and held == len(points):
        time.sleep(WAIT_S)
        points = [point for point in points if not _done(point)]
        held = sum(RunFolder(config.path).is_held() for _, config in points)
    return points


def _patiently(config: RunConfig) -> RunResult:
    """The run, once no other process works on it."""
    while True:
        try:
            return run(config)
        except Busy:
            time.sleep(WAIT_S)


# ---------------------------------------------------------------------------------------- searches


def _search(sweep: Sweep, dry_run: bool) -> bool:
    """Let a sweeper search, once for every grid; True if no point failed."""
    failed, alone = False, sweep.launcher == "basic"
    for words in sweep.searches:
        job = Job(str(Path.cwd()), alone, {}, {}, frozenset(words), sweep.config_dir)
        console.print(f"hydra/sweeper={sweep.sweeper} searches {visible(' '.join(words))}", soft_wrap=True)
        if not dry_run:
            tried = search(sweep, words, job, Path(sweep.points[0][1].results_dir))
            failed |= any(outcome.error for outcome in tried)
            _print_tried(tried, shared=set(words))
    return not failed


def _print_tried(tried: list[Outcome], shared: set[str]) -> None:
    """The points of a search, the best on top, those that failed below."""
    table = _table("score", "point")
    for outcome in sorted(tried, key=lambda o: -math.inf if o.score is None else o.score, reverse=True):
        point = " ".join(word for word in outcome.words if word not in shared)
        score = "failed" if outcome.score is None else f"{outcome.score:.4f}"
        table.add_row(score, visible(point if outcome.error is None else f"{point}: {outcome.error}"))
    console.print(table)
