"""Experiments as figures and the report need them: what ``figure:`` says, checked, and the finished runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from gdo_cli import figures
from gdo_cli.config.compose import Composer
from gdo_cli.config.grid import load_grid
from gdo_cli.config.options import options
from gdo_cli.config.run_config import RunConfig
from gdo_cli.figures.style import Drawing
from gdo_cli.runs.find import index_runs
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import require, require_one_of, suggest

_OF_ANY_KIND = ("kind", "title", "with")
_WITH = "an experiment's, as {experiment: seeds, overrides: [method=sft]}, or a list of such"


@dataclass(frozen=True)
class FigureSpec:
    """What an experiment says of its figure.

    Attributes:
        draw: makes it of runs, with the experiment's options.
        analysis: what ``gdo analyze`` must have found of each run before; None for most kinds.
        others: (experiment, overrides) whose finished runs belong in the figure too.
    """

    draw: Callable[[list[RunResult]], Drawing]
    analysis: str | None
    others: list[tuple[str, list[str]]]


def read_spec(figure: Any, config_dir: Path | None = None) -> FigureSpec:
    """Return the checked form of ``{"kind": "curves", …}``.

    Raises:
        UserError: an unknown kind, an option that it does not take or of another type, an unknown experiment.
    """
    require(isinstance(figure, dict), f"figure={figure}: must be options with a kind, as {{kind: curves}}")
    names = (module.name for module in iter_modules(figures.__path__))
    modules = {name: import_module(f"{figures.__name__}.{name}") for name in names}
    kinds = {name: module for name, module in modules.items() if hasattr(module, "draw")}
    require_one_of("figure.kind", str(figure.get("kind", "")), kinds)
    kind = kinds[figure["kind"]]
    require(isinstance(figure.get("title", ""), str), f"figure.title={figure.get('title')}: must be text")
    takes = {name: hint for name, hint in get_type_hints(kind.draw).items() if name not in ("runs", "return")}
    given = {key: value for key, value in figure.items() if key not in _OF_ANY_KIND}
    for key, value in given.items():
        allowed = suggest(str(key), [*takes, *_OF_ANY_KIND])
        require(key in takes, f"figure.{key}: {figure['kind']} has no such option; {allowed}")
        require(_fits(value, takes[key]), f"figure.{key}={value}: must be {_told(takes[key])}")
    others = _others(figure.get("with") or [], config_dir)
    return FigureSpec(partial(kind.draw, **given), getattr(kind, "ANALYSIS", None), others)


def _others(named: Any, config_dir: Path | None) -> list[tuple[str, list[str]]]:
    others = []
    for also in named if isinstance(named, list) else [named]:
        whole = isinstance(also, dict) and "experiment" in also and set(also) <= {"experiment", "overrides"}
        require(whole and _fits(also.get("overrides", []), list[str]), f"figure.with={also}: must be {_WITH}")
        require_one_of("figure.with.experiment", str(also["experiment"]), options("experiment", config_dir))
        others.append((also["experiment"], also.get("overrides", [])))
    return others


def _fits(value: Any, hint: Any) -> bool:
    """Whether what YAML gave is of the type, of those that ``draw`` functions have."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(_fits(value, part) for part in parts)
    if kind is tuple:
        return isinstance(value, list) and len(value) == len(parts) and all(map(_fits, value, parts))
    if kind is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if kind is not None:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    return isinstance(value, (int, float) if hint is float else hint) and not isinstance(value, bool)


def _told(hint: Any) -> str:
    """A type in words."""
    kind, words = get_origin(hint), [_told(part) for part in get_args(hint) if part is not NoneType]
    if kind is UnionType:
        return " or ".join(words)
    if kind is tuple:
        return f"[{', '.join(words)}]"
    if kind is dict:
        return f"{{name: {words[1]}, …}}"
    return {str: "a word", float: "a number"}[hint] if kind is None else f"a list, each {words[0]}"


class FinishedRuns:
    """The finished runs below a folder of results, read once, as the experiments ask for them."""

    def __init__(self, results: Path, config_dir: Path | None = None) -> None:
        self._results = results
        self._composer = Composer(config_dir)
        self._found: dict[tuple[str, ...], tuple[list[RunResult], list[RunConfig]]] = {}

    def of(self, experiment: str, overrides: list[str]) -> tuple[list[RunResult], list[RunConfig]]:
        """Return the finished runs of an experiment's grid, in its order, and the points without one.

        Raises:
            UserError: a point that cannot be composed, or whose result cannot be read.
        """
        words = (f"experiment={experiment}", f"results_dir={self._results}", *overrides)
        if words not in self._found:
            points = [config for _, config in load_grid(list(words), self._composer)]
            # What is not in the index has no result, or one that cannot be read, which is an error.
            found = [self._index.get((at.id, at.seed)) or RunFolder(at.path).load() for at in points]
            missing = [point for point, run in zip(points, found, strict=True) if run is None]
            self._found[words] = [run for run in found if run], missing
        return self._found[words]

    @cached_property
    def _index(self) -> dict[tuple[str, int], RunResult]:
        return index_runs(self._results)
