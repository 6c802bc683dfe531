"""The points of a sweep, composed and checked before the first one runs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gdo_cli.config.build import load_run
from gdo_cli.config.compose import Composer, Conf, Override, RunMode, alternatives, key_of
from gdo_cli.config.options import GROUPS
from gdo_cli.config.run_config import RunConfig
from gdo_cli.support.errors import UserError, require

Point = tuple[list[str], RunConfig]


@dataclass(frozen=True)
class Sweep:
    """All that is known of a sweep before it starts.

    Attributes:
        settings: overrides of Hydra's own settings, and the choices of groups that may bring more of them.
        launcher: option of ``hydra/launcher``.
        sweeper: option of ``hydra/sweeper``; all but ``basic`` search instead of running a grid.
        points: overrides and run of every point of a grid that can be composed, in Hydra's order.
        impossible: overrides of the other points, and what is wrong with each.
        searches: for a sweeper that searches, the overrides of each search. The points are then the
            corners of its space: they are checked, and not run.
    """

    settings: list[str]
    launcher: str
    sweeper: str
    config_dir: Path | None
    points: list[Point]
    impossible: list[tuple[list[str], str]]
    searches: list[list[str]]

    def label(self, words: list[str]) -> str:
        """Return what tells a point from the others."""
        every = [*(w for w, _ in self.points), *(w for w, _ in self.impossible)]
        shared = set.intersection(*map(set, every)) if len(every) > 1 else set()
        return " ".join(word for word in words if word not in shared) or " ".join(words)

    def refusal(self) -> UserError:
        """Return the impossible points with their reasons; a mistake that spoils every point is told once."""
        reasons: dict[str, list[str]] = {}
        for words, reason in self.impossible:
            reasons.setdefault(reason, []).append(self.label(words))
        if len(reasons) == 1 and not self.points:
            return UserError(next(iter(reasons)))
        n = len(self.impossible)
        mend = "; --skip-invalid runs the others" if self.points and not self.searches else ""
        lines = [f"{n} of {n + len(self.points)} points are impossible{mend}:"]
        for reason, labels in reasons.items():
            lines += [*(f"  {label}" for label in labels), f"    {reason}"]
        return UserError(*lines)


def load_grid(overrides: list[str], conf: Conf = None) -> list[Point]:
    """Return every point of a grid, as its overrides and its run, in Hydra's order, all checked.

    Raises:
        UserError: naming the points that are impossible, and why.
    """
    sweep = load_sweep(overrides, conf)
    if sweep.impossible:
        raise sweep.refusal()
    return sweep.points


def load_sweep(overrides: list[str], conf: Conf = None) -> Sweep:
    """Compose everything that the overrides ask for; points that differ in values alone share a composition.

    A grid is the product of the overrides given as Hydra sweeps (``seed=0,1``, ``range(3)``, ``glob(*)``)
    and of ``sweep`` in the chosen experiment, where the former does not mention it. A list of sweeps in
    the experiment is one grid after another, of which the overrides choose: a grid keeps the values that
    both name, and falls away where there are none.

    Raises:
        UserError: overrides that are none, unknown experiments, launchers and sweepers.
    """
    composer = Composer.of(conf)
    given = composer.parse(overrides, sweeps=True)
    own = [o.input_line for o in given if o.is_hydra_override()]
    experiments = _each_experiment([o for o in given if not o.is_hydra_override()], composer)
    settings = [
        [o.input_line for o in words if o.key_or_group in GROUPS and not o.is_sweep_override()] + own
        for words in experiments
    ]
    setups = [composer.load(words, RunMode.MULTIRUN) for words in settings]
    with composer.messages():
        pairs = zip(setups, experiments, strict=True)
        grids = [grid for setup, words in pairs for grid in _grids(setup, words, composer)]
    choices = setups[0].hydra.runtime.choices
    launcher, sweeper = str(choices["hydra/launcher"]), str(choices["hydra/sweeper"])
    search = sweeper != "basic"
    every = {tuple(point): None for grid in grids for point in _points(grid, composer, search)}
    require(bool(every), f"{' '.join(overrides)}: no point; what is swept over matches nothing")
    points: dict[Path, Point] = {}
    impossible: list[tuple[list[str], str]] = []
    for point in map(list, every):
        try:
            run = load_run(point, composer)
        except UserError as error:
            impossible.append((point, str(error)))
        else:  # two spellings of one run, such as layers=[0,1],[1,0], are one point
            points.setdefault(run.path, (point, run))
    found = [*points.values()]
    searches = grids if search else []
    return Sweep(settings[0], launcher, sweeper, composer.config_dir, found, impossible, searches)


def _each_experiment(given: list[Override], composer: Composer) -> list[list[Override]]:
    """The overrides once for every experiment that they name, and every model, on which its grid may hang."""
    if not any(o.key_or_group == "experiment" for o in given):
        return [given]
    choices = [
        composer.parse([f"{o.key_or_group}={value}" for value in alternatives(o).values()], sweeps=True)
        if o.key_or_group in ("experiment", "model") and o.is_discrete_sweep()
        else [o]
        for o in given
    ]
    return [list(choice) for choice in product(*choices)]


def _grids(setup: DictConfig, given: list[Override], composer: Composer) -> list[list[str]]:
    """The grids of an experiment and of ``hydra.sweeper.params``, as lists of overrides with sweeps."""
    named = {key_of(o): o for o in given}
    params = setup.hydra.sweeper.get("params") or {}
    grids = []
    for grid in _narrowed(OmegaConf.select(setup, "sweep") or {}, named, composer):
        words = [o.input_line for o in given if key_of(o) not in grid]
        words += [f"{key}={value}" for key, value in grid.items()]
        words += [f"{key}={_text(value)}" for key, value in params.items() if key not in {*named, *grid}]
        grids.append(words)
    return grids


def _narrowed(experiment: Any, named: dict[str, Override], composer: Composer) -> list[dict[str, str]]:
    """What an experiment sweeps beside the overrides that are named already, as key → alternatives."""
    if not OmegaConf.is_list(experiment):
        return [{str(k): _text(v) for k, v in experiment.items() if k not in named}]
    narrowed = []
    for grid in experiment:
        # An interval is a choice of its own.
        choices = {k: _text(v) for k, v in grid.items() if k not in named or not named[k].is_interval_sweep()}
        for key in choices.keys() & named.keys():
            wanted = alternatives(named[key])
            (own,) = composer.parse([f"{key}={choices[key]}"], sweeps=True)
            choices[key] = ",".join(text for value, text in alternatives(own).items() if value in wanted)
        if all(choices.values()):
            narrowed.append(choices)
    return narrowed or [{}]


def _text(value: Any) -> str:
    """What an experiment sweeps over as Hydra has it on a command line; a mapping is one value, and so is a
    list in a list."""
    if not OmegaConf.is_list(value):
        return _element(value)
    return ",".join(map(_element, value))


def _element(value: Any) -> str:
    if OmegaConf.is_dict(value):
        return "{" + ",".join(f"{key}:{_element(item)}" for key, item in value.items()) + "}"
    if OmegaConf.is_list(value):
        return "[" + ",".join(map(_element, value)) + "]"
    return "null" if value is None else str(value)


def _points(words: list[str], composer: Composer, search: bool) -> list[list[str]]:
    """Every point of a grid, in the order of Hydra's basic sweeper; of the space of a search, points that
    between them hold every choice, and both ends of every interval."""
    values: dict[str, list[str]] = {}
    for override in composer.parse(words, sweeps=True):
        key = override.get_key_element()
        if override.is_interval_sweep():
            require(search, f"{override.input_line}: an interval is searched, with hydra/sweeper=optuna")
            values[key] = [f"{key}={end}" for end in (override.value().start, override.value().end)]
        else:
            values[key] = [f"{key}={text}" for text in alternatives(override).values()]
    if not search:
        return [list(point) for point in product(*values.values())]
    corner = {key: of_key[0] for key, of_key in values.items()}
    varied = [corner | {key: value} for key, of_key in values.items() for value in of_key[1:]]
    return [list(point.values()) for point in (corner, *varied)]
