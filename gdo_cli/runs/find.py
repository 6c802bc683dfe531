"""Finished runs, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from gdo_cli.runs.record import RunResult, read_run
from gdo_cli.support.errors import UserError, require, suggest


def find_runs(results_dir: str | Path) -> list[RunResult]:
    """Return all finished runs, by name."""
    return [read_run(folder) for folder in _finished(results_dir)]


def index_runs(results_dir: str | Path) -> dict[tuple[str, int], RunResult]:
    """Return all finished runs that can be read, by the id of their settings and their seed."""
    found = {}
    for folder in _finished(results_dir):
        with suppress(UserError):
            run = read_run(folder)
            found[run.id, run.seed] = run
    return found


def _finished(results_dir: str | Path) -> list[Path]:
    return sorted(file.parent for file in Path(results_dir).glob("runs/*/*/*/seed*/result.json"))


def find_run(reference: str, results_dir: str | Path) -> RunResult:
    """Return the finished run of a path, or of a part of its name that no other run has.

    Raises:
        UserError: none, or several.
    """
    return _only(reference, _matches(reference, results_dir))


def find_seeds(reference: str, results_dir: str | Path) -> list[RunResult]:
    """Like :func:`find_run`; a name that only the seeds of one run share stands for all of them.

    Raises:
        UserError: none, or runs that differ in more than their seed.
    """
    matches = _matches(reference, results_dir)
    return matches if len({run.path.parent for run in matches}) == 1 else [_only(reference, matches)]


def find_target(words: Sequence[str], results_dir: str | Path) -> tuple[RunResult | None, list[str]]:
    """Return the run among the words, if one is named, and the overrides.

    Raises:
        UserError: several names, or one of none or several runs.
    """
    names = [word for word in words if "=" not in word]
    require(len(names) <= 1, f"one run at a time, not {', '.join(names)}")
    overrides = [word for word in words if "=" in word]
    return (find_run(names[0], results_dir) if names else None), overrides


def _matches(reference: str, results_dir: str | Path) -> list[RunResult]:
    """The runs of that very name, or else all whose name it is a part of; at least one."""
    if (Path(reference) / "result.json").is_file():
        return [read_run(Path(reference))]
    titles = {folder: "/".join(folder.parts[-3:]) for folder in _finished(results_dir)}
    names = {folder: str(folder.relative_to(results_dir)) for folder in titles}
    exact = [folder for folder in titles if reference in (titles[folder], names[folder])]
    matches = exact or [folder for folder in titles if reference in names[folder]]
    if not matches:
        hint = suggest(reference, titles.values(), lister="gdo ls")
        raise UserError(f"no finished run {reference!r} in {results_dir}; {hint}")
    return [read_run(folder) for folder in matches]


def _only(reference: str, matches: list[RunResult]) -> RunResult:
    named = ", ".join(run.title for run in matches[:8])
    require(len(matches) == 1, f"{reference!r} names {len(matches)} runs: {named}")
    return matches[0]


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
