"""Finished runs, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from gdo_cli.runs.record import RunResult, read_run
from gdo_cli.support.errors import UserError, require, suggest

RESULTS = "runs/*/*/*/seed*/result.json"


def find_runs(results_dir: str | Path) -> list[RunResult]:
    """Return all finished runs, by name."""
    files = sorted(Path(results_dir).glob(RESULTS))
    return [read_run(file.parent) for file in files]


def index_runs(results_dir: str | Path) -> dict[tuple[str, int], RunResult]:
    """Return all finished runs that can be read, by the id of their settings and their seed."""
    found = {}
    for file in sorted(Path(results_dir).glob(RESULTS)):
        with suppress(UserError):
            run = read_run(file.parent)
            found[run.id, run.seed] = run
    return found


def find_run(reference: str, results_dir: str | Path) -> RunResult:
    """Return the finished run of a path, or of a part of its name that no other run has.

    Raises:
        UserError: none, or several.
    """
    matches = _matches(reference, results_dir)
    if len(matches) == 1:
        return matches[0]
    raise UserError(f"{reference!r} names {len(matches)} runs: {', '.join(r.title for r in matches[:8])}")


def find_target(words: Sequence[str], results_dir: str | Path) -> tuple[RunResult | None, list[str]]:
    """Return the run among the words, if one is named, and the overrides.

    Raises:
        UserError: several names, or one of none or several runs.
    """
    names = [word for word in words if "=" not in word]
    require(len(names) <= 1, f"one run at a time, not {', '.join(names)}")
    overrides = [word for word in words if "=" in word]
    return (find_run(names[0], results_dir) if names else None), overrides


def find_seeds(reference: str, results_dir: str | Path) -> list[RunResult]:
    """Like :func:`find_run`; a name that only the seeds of one run share stands for all of them.

    Raises:
        UserError: none, or runs that differ in more than their seed.
    """
    matches = _matches(reference, results_dir)
    return matches if len({run.path.parent for run in matches}) == 1 else [find_run(reference, results_dir)]


def _matches(reference: str, results_dir: str | Path) -> list[RunResult]:
    """The runs of that very name, or else all whose name it is a part of; at least one."""
    if (Path(reference) / "result.json").is_file():
        return [read_run(Path(reference))]
    folders = sorted(file.parent for file in Path(results_dir).glob(RESULTS))
    titles = {folder: "/".join(folder.parts[-3:]) for folder in folders}
    matches = [f for f in folders if reference in (titles[f], str(f.relative_to(results_dir)))]
    matches = matches or [f for f in folders if reference in str(f.relative_to(results_dir))]
    if not matches:
        hint = suggest(reference, titles.values(), lister="gdo ls")
        raise UserError(f"no finished run {reference!r} in {results_dir}; {hint}")
    return [read_run(folder) for folder in matches]


def all_seeds(run: RunResult) -> list[RunResult]:
    """Return the run and then all finished ones that differ from it in their seed alone."""
    files = sorted(run.path.parent.glob("seed*/result.json"))
    return [run, *(read_run(file.parent) for file in files if file.parent.name != run.path.name)]


def by_id(runs: Iterable[RunResult]) -> dict[str, list[RunResult]]:
    """Return runs that differ in their seed alone, together."""
    found: dict[str, list[RunResult]] = {}
    for run in runs:
        found.setdefault(run.id, []).append(run)
    return found
