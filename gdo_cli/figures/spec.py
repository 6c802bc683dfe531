"""``figure:`` in an experiment's YAML, checked: the kind that it names, and the options of this kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType, NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from gdo_cli import figures
from gdo_cli.config.options import options
from gdo_cli.figures.drawing import Drawing
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import require, require_one_of, suggest

_OF_ANY_KIND = ("kind", "title", "with")
_WITH = "an experiment's, as {experiment: seeds, overrides: [method=sft]}, or a list of such"


@dataclass(frozen=True)
class FigureSpec:
    """What an experiment says of its figure.

    Attributes:
        kind: the module of :mod:`gdo_cli.figures` that draws it.
        options: what its ``draw`` takes beside the runs.
        others: (experiment, overrides) whose finished runs belong in the figure too.
    """

    kind: str
    options: dict[str, Any]
    others: list[tuple[str, list[str]]]

    @property
    def module(self) -> ModuleType:
        return import_module(f"{figures.__name__}.{self.kind}")

    @property
    def analysis(self) -> str | None:
        """What ``gdo analyze`` must have found of each run before this kind can draw it."""
        return getattr(self.module, "ANALYSIS", None)

    def draw(self, runs: list[RunResult]) -> Drawing:
        drawing: Drawing = self.module.draw(runs, **self.options)
        return drawing


def read_spec(figure: Any, config_dir: Path | None = None) -> FigureSpec:
    """Return the checked form of ``{"kind": "curves", …}``.

    Raises:
        UserError: an unknown kind, an option that it does not take or of another type, an unknown experiment.
    """
    require(isinstance(figure, dict), f"figure={figure}: must be options with a kind, as {{kind: curves}}")
    kinds = _kinds()
    require_one_of("figure.kind", str(figure.get("kind", "")), kinds)
    module = kinds[figure["kind"]]
    require(isinstance(figure.get("title", ""), str), f"figure.title={figure.get('title')}: must be text")
    return FigureSpec(figure["kind"], _options(module, figure), _others(figure.get("with") or [], config_dir))


def _kinds() -> dict[str, ModuleType]:
    names = sorted(module.name for module in iter_modules(figures.__path__))
    modules = {name: import_module(f"{figures.__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "draw")}


def _options(module: ModuleType, figure: dict[str, Any]) -> dict[str, Any]:
    takes = {
        name: hint for name, hint in get_type_hints(module.draw).items() if name not in ("runs", "return")
    }
    given = {key: value for key, value in figure.items() if key not in _OF_ANY_KIND}
    for key, value in given.items():
        allowed = suggest(str(key), [*takes, *_OF_ANY_KIND])
        require(key in takes, f"figure.{key}: {figure['kind']} has no such option; {allowed}")
        require(_fits(value, takes[key]), f"figure.{key}={value}: must be {_told(takes[key])}")
    return given


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
    if kind in (list, Sequence):
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if kind is tuple:
        alike = isinstance(value, list) and len(value) == len(parts)
        return alike and all(_fits(item, part) for item, part in zip(value, parts, strict=True))
    if kind is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    return isinstance(value, (int, float) if hint is float else hint) and not isinstance(value, bool)


def _told(hint: Any) -> str:
    """A type in words."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return " or ".join(_told(part) for part in parts if part is not NoneType)
    if kind in (list, Sequence):
        return f"a list, each {_told(parts[0])}"
    if kind is tuple:
        return f"[{', '.join(_told(part) for part in parts)}]"
    if kind is dict:
        return f"{{name: {_told(parts[1])}, …}}"
    return {str: "a word", float: "a number"}[hint]
