"""What ``gdo tune`` searches: the configuration ``tune``, and the points of its space as checked runs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gdo_cli.config.build import build_part, load_run
from gdo_cli.config.compose import Composer, Override, alternatives
from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.contract import Contract
from gdo_cli.runs.record import DECAYING
from gdo_cli.support.errors import UserError, require
from gdo_cli.support.identity import identity

SHORT = ("trials", "hours", "storage", "rescue")  # settings of tune that need not be written with its name
Values = dict[str, Any]


# Not frozen: OmegaConf cannot fill in a nested frozen dataclass.


@dataclass
class Dimension:
    """A setting that is searched.

    Attributes:
        key: as in an override.
        choices: values to choose from; or else a range:
        low, high: its ends, in units of ``scale``.
        log: whether the range is searched by factors.
        when: values that other settings must have for it to count, e.g. ``{"method": ["lora"]}``.
    """

    key: str
    choices: list[Any] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    scale: float = 1.0
    when: dict[str, list[Any]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise a UserError unless it is either a choice or a range."""
        where = f"tune.space, {self.key}"
        if self.choices is not None:
            require(bool(self.choices) and self.low is None, f"{where}: give choices, or low and high")
            return
        low, high = self.low, self.high
        if low is None or high is None or not (-math.inf < low < high < math.inf):
            raise UserError(f"{where}: give choices, or low and high, of which high is larger")
        require(not self.log or low > 0, f"{where}: low={low} must be positive where log is true")

    @property
    def name(self) -> str:
        """What a study calls it: two ranges of one setting are two dimensions."""
        return self.key if not self.when else f"{self.key} {json.dumps(self.when, sort_keys=True)}"

    def counts(self, values: Mapping[str, Any]) -> bool:
        """Return whether it is searched where other settings have these values."""
        return all(values.get(key) in wanted for key, wanted in self.when.items())

    @property
    def usual(self) -> Any:
        """What is tried first: the middle of a range."""
        assert self.low is not None
        assert self.high is not None
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2


@dataclass(frozen=True)
class TuneConfig:
    """How ``gdo tune`` searches; see conf/tune/default.yaml.

    Attributes:
        trials: how many runs, over all processes that share the study.
        hours: after which no further trial is started.
        storage: file of the study.
        rescue: how many points on the way back to the base are measured for a trial that broke the contract.
    """

    trials: int = 12
    hours: float | None = None
    seed: int = 0
    storage: str | None = None
    rescue: int = 4
    space: list[Dimension] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.trials > 0, f"tune.trials={self.trials}: must be positive")
        require(self.hours is None or self.hours > 0, f"tune.hours={self.hours}: must be positive")
        require(self.rescue >= 0, f"tune.rescue={self.rescue}: must not be negative")


class Tuning:
    """A search: the settings that all its runs share, and the space of the others.

    Raises:
        UserError: overrides that are none, a space with a fault, or runs without a contract.
    """

    def __init__(self, overrides: list[str], config_dir: Path | None) -> None:
        words = [f"tune.{word}" if word.partition("=")[0] in SHORT else word for word in overrides]
        self.composer = Composer.of(config_dir)
        given = self.composer.parse(words, sweeps=True)
        if own := [o.input_line for o in given if o.is_hydra_override()]:
            raise UserError(f"{own[0]}: gdo tune searches by itself; several processes may share its storage")
        fixed = [o for o in given if not o.is_sweep_override()]
        self.words = [str(o.input_line) for o in fixed]
        composed = self.composer(self.words)
        self.config: TuneConfig = build_part(composed["tune"], "tune", TuneConfig)
        self.space = self._space(composed, fixed, [o for o in given if o.is_sweep_override()])
        if not any(word.partition("=")[0] in ("keep", "keep.tolerances") for word in self.words):
            self.words.insert(0, "keep=default")
        self.contract: Contract = build_part(self.composer(self.words)["keep"], "keep", Contract)
        require(
            bool(self.contract.tolerances), "gdo tune searches under a contract: keep=default, or one's own"
        )
        first = self._first_possible()
        self.name = f"{first.name['model']}-{first.name['task']}-{self._id(first)}"
        self.folder = Path(first.results_dir) / "tune" / self.name
        self.first = first

    def _space(self, composed: DictConfig, fixed: list[Override], swept: list[Override]) -> list[Dimension]:
        """The dimensions of the file, but for settings that the user fixes or gives several values of."""
        mine = {str(o.key_or_group) for o in (*fixed, *swept)}
        found = [d for d in self.config.space if d.key not in mine]
        found = [_of_override(o) for o in swept] + found
        for dimension in found:
            dimension.check()
        known = {d.key for d in found}
        possible = (_given_fixed(d, known, composed) for d in found)
        return [d for d in possible if d is not None]

    def _id(self, first: RunConfig) -> str:
        """What tells a study from others: all that is not searched, and the contract."""
        content = identity(first)
        for dimension in self.space:
            part, _, key = dimension.key.partition(".")
            content.pop(part, None) if not key else content.get(part, {}).pop(key, None)
        content |= {"keep": identity(self.contract), "space": [asdict(d) for d in self.space]}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def usual(self) -> list[Values]:
        """Return the points to try first: each choice of the first dimension, amid the other ones."""
        chosen = [d for d in self.space if d.choices is not None]
        first = chosen[0] if chosen else None
        return [self._usual(first, choice) for choice in (first.choices or [] if first else [None])]

    def _usual(self, first: Dimension | None, choice: Any) -> Values:
        values: Values = {}  # by settings
        names: Values = {}  # by dimensions
        for d in self.space:
            if not d.counts(values):
                continue
            value = choice if d is first else (d.choices[0] if d.choices is not None else d.usual)
            values[d.key] = names[d.name] = value
        return names

    def _first_possible(self) -> RunConfig:
        """The first of the usual points that is possible; if none is, the reason is told."""
        for point in self.usual():
            try:
                return self.point(point)
            except UserError as error:
                reason = error
        raise reason

    def overrides(self, point: Values) -> list[str]:
        """Return the overrides of a point: values by the names of dimensions."""
        chosen = []
        for d in self.space:
            if d.name in point:
                value = point[d.name]
                written = f"{value * d.scale:.3g}" if d.choices is None else _written(value)
                chosen.append(f"{d.key}={written}")
        return chosen

    def point(self, point: Values) -> RunConfig:
        """Return the run of a point, as a trial: ended by its contract, and not measured on test items.

        Raises:
            UserError: it is impossible.
        """
        words = [*self.words, *self.overrides(point), "evaluation.final_items=0", "select=kept"]
        config = load_run(words, self.composer)
        decays = config.train.lr_scheduler in DECAYING  # such a run must not stop before its end
        return config if decays else load_run([*words, "stop.lost=true"], self.composer)


def _given_fixed(dimension: Dimension, searched: set[str], composed: DictConfig) -> Dimension | None:
    """A dimension without what it asks of settings that are fixed; None where these are others."""
    fixed = {key: values for key, values in dimension.when.items() if key not in searched}
    for key, values in fixed.items():
        if composed.name.get(key, OmegaConf.select(composed, key)) not in values:
            return None
    return replace(dimension, when={k: v for k, v in dimension.when.items() if k not in fixed})


def _of_override(override: Override) -> Dimension:
    """A dimension from an override with several values, or an interval."""
    key = str(override.key_or_group)
    value = override.value()
    if override.is_interval_sweep():
        low, high = float(value.start), float(value.end)
        return Dimension(key, low=low, high=high, log="log" in value.tags or (low > 0 and high / low >= 10))
    return Dimension(key, choices=list(alternatives(override).values()))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
