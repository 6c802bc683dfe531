"""What a result.json holds, typed: a misspelt field is a developer's mistake, a damaged file a user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gdo_cli.support.errors import UserError, suggest


@dataclass(frozen=True)
class Parameters:
    """What a method added and trained, in numbers of parameters.

    Attributes:
        base: of the text model before the method changed it.
        trainable_share: of ``base``.
        trainable_by_module: by kind of layer.
    """

    base: int = 0
    added: int = 0
    trainable: int = 0
    trainable_share: float = 0.0
    trainable_by_module: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ChosenLayers:
    """The layers that a run worked on.

    Attributes:
        asked: ``all``, a number, or indices.
        chosen: indices, or ``all``.
        rule: by which they were chosen, where a number was asked for.
        pilot: the run that they were ranked by, ``pilot_seconds`` what it took.
        ranking: every layer, the first choice first.
        snr: signal over noise of each layer.
        depth: layers of the model, where more were asked for.
    """

    asked: Any = "all"
    rule: str | None = None
    pilot: str | None = None
    pilot_seconds: float | None = None
    snr: list[float | None] | None = None
    ranking: list[int] | None = None
    chosen: Any = "all"
    depth: int | None = None

    @property
    def indices(self) -> list[int] | None:
        """The chosen layers; None for all."""
        return None if self.chosen == "all" else list(self.chosen)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything that is kept of a finished run beside its metrics, predictions and weights.

    Attributes:
        method_label: the method's name in figures and tables.
        name: the chosen option of each group.
        overrides: what it was composed from.
        config: its configuration as plain data (:func:`gdo_cli.support.identity.identity`).
        final: metrics on test data.
        steps: optimizer steps; 0 where nothing was trained.
        updates: how far each matrix has moved.
        data: where the rows are from, by split and probe, and their checksums.
        weights: where the base's weights are from, and their checksum.
        trained_sha256: checksum of the trained weights' file, if they were kept.
    """

    id: str
    seed: int
    method_label: str = ""
    name: dict[str, str]
    overrides: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    final: dict[str, float]
    steps: int = 0
    layers: ChosenLayers = field(default_factory=ChosenLayers)
    parameters: Parameters = field(default_factory=Parameters)
    updates: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    wall_seconds: float = 0.0
    train_seconds: float = 0.0
    tokens_per_second: int = 0
    peak_memory_bytes: int = 0
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    trained_sha256: str | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], whole: bool = True) -> RunRecord:
        """Return the record that plain data hold; what this version does not know is left out.

        Args:
            whole: whether every field has to be there.
        Raises:
            ValueError: a field is missing or of another kind.
        """
        if not {"id", "seed", "name", "final"} <= content.keys():
            raise ValueError("not the record of a run")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        optional = {"trained_sha256"} if whole else fields.keys() - {"id", "seed", "name", "final"}
        if missing := fields.keys() - optional - content.keys():
            raise ValueError(f"no {', '.join(sorted(missing))}")
        known: dict[str, Any] = {key: value for key, value in content.items() if key in fields}
        kinds: dict[str, type] = {"id": str, "seed": int, "steps": int}
        kinds |= dict.fromkeys(("name", "final", "config", "data"), dict)
        if wrong := [key for key, kind in kinds.items() if key in known and not isinstance(known[key], kind)]:
            raise ValueError(f"{wrong[0]} is not what it should be")
        for key, kind in (("layers", ChosenLayers), ("parameters", Parameters)):
            if key in known:
                known[key] = _part(kind, known[key])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, in the order of result.json; what was not asked of the layers is left out."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        layers = vars(self.layers)
        content["layers"] = {key: value for key, value in layers.items() if value is not None}
        content["parameters"] = vars(self.parameters)
        return content


def look_up(key: str, name: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """Return the chosen option of a group, or else a setting by its dotted name, e.g. ``train.lr``.

    Raises:
        UserError: there is no such setting; ends with the nearest one.
    """
    if key in name:
        return name[key]
    value: Any = config
    above, beside = "", list(name)
    for part in key.split("."):
        there = value if isinstance(value, Mapping) else {}
        if part not in there:
            nearest = suggest(key, {*beside, *(f"{above}{other}" for other in there)})
            raise UserError(f"no setting {key!r} to tell runs apart by; {nearest}")
        value = there[part]
        above, beside = f"{above}{part}.", []
    return value


def _part(kind: type, content: Any) -> Any:
    if not isinstance(content, Mapping):
        raise ValueError(f"{kind.__name__} is not what it should be")
    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in content.items() if key in known})
