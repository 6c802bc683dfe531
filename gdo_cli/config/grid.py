"""The points of a sweep, composed and checked before the first one runs. A neighbour of the Hydra border
(:mod:`gdo_cli.config.compose`): Hydra's sweep syntax goes in, checked runs come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gdo_cli.config.build import load_run
from gdo_cli.config.compose import (
    Composer,
    composed,
    hydra_messages,
    hydra_ready,
    key_of,
    option_names,
    parse,
)
from gdo_cli.config.options import GROUPS
from gdo_cli.config.run_config import RunConfig
from gdo_cli.support.errors import UserError, require

Point = tuple[list[str], RunConfig]


@dataclass(frozen=True)
class Engine:
    """What of Hydra's runs the points, and where.

    Attributes:
        words: overrides of Hydra's own settings, and the choices of groups that may bring more of them.
        launcher: option of ``hydra/launcher``.
        sweeper: option of ``hydra/sweeper``; all but ``basic`` search instead of running a grid.
    """

    words: list[str]
    launcher: str = "basic"
    sweeper: str = "basic"
    config_dir: Path | None = None


@dataclass(frozen=True)
class Sweep:
    """All that is known of a sweep before it starts.

    Attributes:
        points: overrides and run of every point of a grid that can be composed, in Hydra's order.
        impossible: overrides of the other points, and what is wrong with each.
        searches: for a sweeper that searches, the overrides of each search. The points are then the
            corners of its space: they are checked, and not run.
    """

    engine: Engine
    points: list[Point] = field(default_factory=list)
    impossible: list[tuple[list[str], str]] = field(default_factory=list)
    searches: list[list[str]] = field(default_factory=list)

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
        return UserError("\n".join(lines))


def load_grid(
    overrides: list[str], config_dir: Path | None = None, composer: Composer | None = None
) -> list[Point]:
    """Return every point of a grid, as its overrides and its run, in Hydra's order, all checked.

    Args:
        composer: shared by several grids.
    Raises:
        UserError: naming the points that are impossible, and why.
    """
    sweep = load_sweep(overrides, config_dir, composer)
    if sweep.impossible:
        raise sweep.refusal()
    return sweep.points


def load_sweep(
    overrides: list[str], config_dir: Path | None = None, composer: Composer | None = None
) -> Sweep:
    """Compose everything that the overrides ask for; points that differ in values alone share a composition.

    A grid is the product of the overrides given as Hydra sweeps (``seed=0,1``, ``range(3)``, ``glob(*)``)
    and of ``sweep`` in the chosen experiment, where the former does not mention it. A list of sweeps in
    the experiment is one grid after another, of which the overrides choose: a grid keeps the values that
    both name, and falls away where there are none.

    Raises:
        UserError: overrides that are none, unknown experiments, launchers and sweepers.
    """
    with hydra_messages(), hydra_ready(config_dir):
        given = parse(overrides, config_dir, sweeps=True)
        own = [o.input_line for o in given if o.is_hydra_override()]
        grids: list[list[str]] = []
        engines: list[Engine] = []
        for words in _each_experiment([o for o in given if not o.is_hydra_override()], config_dir):
            chosen = [o.input_line for o in words if o.key_or_group in GROUPS and not o.is_sweep_override()]
            setup = composed([*chosen, *own], config_dir, _for_sweeps)
            engines.append(_engine(setup, [*chosen, *own], config_dir))
            grids += _grids(setup, words)
        engine = engines[0]
        search = engine.sweeper != "basic"
        lists = [_corners(grid, config_dir) if search else _expanded(grid, config_dir) for grid in grids]
        every = list(dict.fromkeys(tuple(words) for points in lists for words in points))
        require(bool(every), f"{' '.join(overrides)}: no point; what is swept over matches nothing")
        points: list[Point] = []
        impossible: list[tuple[list[str], str]] = []
        composer = composer or Composer(config_dir)
        for point in map(list, every):
            try:
                points.append((point, load_run(point, config_dir, composer)))
            except UserError as error:
                impossible.append((point, str(error)))
    return Sweep(engine, points, impossible, grids if search else [])


def _for_sweeps(words: list[str]) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    setup = loader.load_configuration("config", overrides=words, run_mode=RunMode.MULTIRUN)
    OmegaConf.set_struct(setup, False)
    setup["name"] = option_names(setup)
    return setup


def _engine(setup: DictConfig, words: list[str], config_dir: Path | None) -> Engine:
    choices = setup.hydra.runtime.choices
    return Engine(words, str(choices["hydra/launcher"]), str(choices["hydra/sweeper"]), config_dir)


def _each_experiment(given: list[Override], config_dir: Path | None) -> list[list[Override]]:
    """The overrides once for every experiment that they name, and every model, on which its grid may hang."""
    if not any(o.key_or_group == "experiment" for o in given):
        return [given]
    alternatives = [
        parse([f"{o.key_or_group}={value}" for value in o.sweep_string_iterator()], config_dir, True)
        if o.key_or_group in ("experiment", "model") and o.is_discrete_sweep()
        else [o]
        for o in given
    ]
    return [list(choice) for choice in product(*alternatives)]


def _grids(setup: DictConfig, given: list[Override]) -> list[list[str]]:
    """The grids of an experiment and of ``hydra.sweeper.params``, as lists of overrides with sweeps."""
    named = {key_of(o): o.input_line.partition("=")[2] for o in given}
    params = setup.hydra.sweeper.get("params") or {}
    grids = []
    for grid in _narrowed(setup.get("sweep") or {}, named):
        words = [o.input_line for o in given if key_of(o) not in grid]
        words += [f"{key}={value}" for key, value in grid.items()]
        words += [f"{k}={_alternatives(v)}" for k, v in params.items() if k not in named and k not in grid]
        grids.append(words)
    return grids


def _narrowed(experiment: Any, named: dict[str, str]) -> list[dict[str, str]]:
    """What an experiment sweeps beside the overrides that are named already, as key → alternatives."""
    if not OmegaConf.is_list(experiment):
        return [{str(k): _alternatives(v) for k, v in experiment.items() if k not in named}]
    narrowed = []
    for grid in experiment:
        choices = {str(key): _alternatives(value).split(",") for key, value in grid.items()}
        for key in choices.keys() & named.keys():
            choices[key] = [value for value in choices[key] if value in named[key].split(",")]
        if all(choices.values()):
            narrowed.append({key: ",".join(values) for key, values in choices.items()})
    return narrowed or [{}]


def _alternatives(value: Any) -> str:
    return ",".join(map(str, value)) if OmegaConf.is_list(value) else str(value)


def _expanded(words: list[str], config_dir: Path | None) -> list[list[str]]:
    """Every point of a grid, in the order of Hydra's basic sweeper."""
    given = parse(words, config_dir, sweeps=True)
    for override in given:
        if override.is_interval_sweep():
            raise UserError(f"{override.input_line}: an interval is searched, with hydra/sweeper=optuna")
    (points,) = BasicSweeper.split_arguments(given, max_batch_size=None)
    return points


def _corners(words: list[str], config_dir: Path | None) -> list[list[str]]:
    """Points of a search space that between them hold every choice, and both ends of every interval."""
    every = [_ends(override) for override in parse(words, config_dir, sweeps=True)]
    first = [values[0] for values in every]
    varied = [[*first[:i], value, *first[i + 1 :]] for i, values in enumerate(every) for value in values[1:]]
    return [first, *varied]


def _ends(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line]
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{override.get_key_element()}={end}" for end in (value.start, value.end)]
    return [f"{override.get_key_element()}={text}" for text in override.sweep_string_iterator()]
