"""From a composition to a checked :class:`RunConfig`. No DictConfig leaves this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from gdo_cli.config.compose import Composer, compose
from gdo_cli.config.options import NOT_OF_A_RUN, options
from gdo_cli.config.run_config import RunConfig, WandbConfig
from gdo_cli.data.config import DataConfig
from gdo_cli.evaluation.config import EvaluationConfig
from gdo_cli.methods.base import Method, layer_indices
from gdo_cli.models.source import ModelSource
from gdo_cli.probes.base import Probe
from gdo_cli.support.errors import UserError, first_line, suggest
from gdo_cli.support.identity import identity_name
from gdo_cli.tasks.base import Task
from gdo_cli.training.config import TrainConfig

# The parts of a run: those of a fixed type, and those whose YAML names a dataclass of the base type.
PLAIN_PARTS = {
    "data": DataConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
    "wandb": WandbConfig,
}
NAMED_PARTS = {"model": ModelSource, "task": Task, "method": Method}


@dataclass
class _Top:
    """The settings that belong to no part."""

    layers: Any = "all"
    layer_rule: str = "pilot"
    seed: int = 0
    results_dir: str = "results"
    save_weights: bool = True


def load_run(
    overrides: list[str], config_dir: Path | None = None, composer: Composer | None = None
) -> RunConfig:
    """Return the run that the overrides describe, checked as far as it can be without loading weights.

    Args:
        composer: shared by the points of a grid.
    Raises:
        UserError: naming the culprit, the allowed values and the nearest match.
    """
    config = composer(overrides) if composer else compose(overrides, config_dir)
    return _build_run(config, overrides, config_dir)


def load_experiment(name: str, config_dir: Path | None = None) -> Any:
    """Return what an experiment file says of its figure, unchecked, e.g. ``{"kind": "curves", …}``; or
    None."""
    figure = OmegaConf.select(compose([f"experiment={name}"], config_dir), "figure")
    return OmegaConf.to_container(figure, resolve=True) if OmegaConf.is_config(figure) else figure


def as_yaml(overrides: list[str], config_dir: Path | None = None) -> str:
    """Return the composed configuration as YAML, after all the checks of :func:`load_run`."""
    config = compose(overrides, config_dir)
    _build_run(config, overrides, config_dir)
    for key in NOT_OF_A_RUN[1:]:
        config.pop(key, None)
    return OmegaConf.to_yaml(config, resolve=True)


# ------------------------------------------------------------------------------------------ build


def _build_run(config: DictConfig, overrides: list[str], config_dir: Path | None) -> RunConfig:
    parts: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, node in config.items():
        key = str(key)
        if key in PLAIN_PARTS:
            parts[key] = build_part(node, key, PLAIN_PARTS[key])
        elif key in NAMED_PARTS:
            parts[key] = build_part(node, key, class_named(node, key, NAMED_PARTS[key]))
        elif key not in NOT_OF_A_RUN:
            rest[key] = node
    for key in (*NAMED_PARTS, *PLAIN_PARTS):
        if key not in parts:
            raise UserError(f"~{key}: a run needs one; {suggest('', options(key, config_dir))}")
    parts["data"] = parts["data"].resolve()
    top = build_part(OmegaConf.create(rest), "", _Top)
    if isinstance(rest.get("seed"), bool) or not 0 <= top.seed < 2**63:
        raise UserError(f"seed={rest['seed']}: must be a whole number, 0 or more, below 2^63")
    probes = _build_probes(config.get("probe"), config_dir)
    name = cast(dict[str, str], OmegaConf.to_container(config.name))
    run = RunConfig(name=name, overrides=overrides, probe=probes, **parts, **vars(top))
    _check_layers(run)
    return run


def _build_probes(node: Any, config_dir: Path | None) -> dict[str, Probe]:
    probes: dict[str, Probe] = {}
    known = options("probe", config_dir)
    for name, fields in (node or {}).items():
        if name not in known:
            raise UserError(f"probe.{name}: no such probe; {suggest(str(name), known)}")
        # An experiment may set up a probe that is not chosen: without _target_, it is none.
        if "_target_" in fields:
            where = f"probe.{name}"
            probes[str(name)] = build_part(fields, where, class_named(fields, where, Probe))
    return probes


def _check_layers(run: RunConfig) -> None:
    """``layers`` is a choice that only some methods have."""
    choice = getattr(run.method, "layers", run.layers)
    if isinstance(choice, bool) or not (
        choice == "all"
        or (isinstance(choice, int) and choice > 0)
        or (isinstance(choice, list) and choice and all(type(i) is int and i >= 0 for i in choice))
    ):
        raise UserError(f"layers={choice}: give all, a number of layers, or a list such as [0,5,11]")
    if run.layers != "all" and not hasattr(run.method, "layers"):
        raise UserError(
            f"layers={run.layers}: method={run.name['method']} takes no layers; leave it out, or choose a "
            "method that works on layers (g_freeze, g_train, mlp_only, …)"
        )
    depth = run.model.depth(run.name["model"])
    if isinstance(choice, list) and depth is not None:
        layer_indices(choice, depth)


# Parts that were built from the same values are the same object: a grid's points share most of them.
_BUILT: dict[tuple[type, str, str], Any] = {}


def build_part(node: Any, where: str, schema: type) -> Any:
    """Return the dataclass filled from the node; unknown keys, wrong types and open values raise."""
    allowed = [field.name for field in dataclasses.fields(schema)]
    prefix = f"{where}." if where else ""
    if not OmegaConf.is_dict(node):
        raise UserError(f"{where}={node}: this holds keys, write {prefix}KEY=…; {suggest('', allowed)}")
    content = cast(dict[str, Any], OmegaConf.to_container(node))
    content.pop("_target_", None)
    for key, value in content.items():
        if value == "???":
            raise UserError(f"{prefix}{key}: needs a value; give it as {prefix}{key}=…")
    known = (schema, where, repr(content))
    try:
        if known not in _BUILT:
            _BUILT[known] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), content))
        return _BUILT[known]
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key or error.key or "")
        raise UserError(f"{prefix}{key}: no such key; {suggest(key, allowed)}") from error
    except ValidationError as error:
        raise UserError(f"{prefix}{_wrong_type(error, content)}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {first_line(error)}") from error


_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def _wrong_type(error: ValidationError, content: dict[str, Any]) -> str:
    """``lr=abc: must be a number``, from what OmegaConf says of a value."""
    key, reason = str(error.full_key), first_line(error)
    for name, meaning in _TYPES.items():
        if reason.endswith(f"could not be converted to {name}"):
            reason = f"must be {meaning}"
    if reason.startswith("Incompatible value 'None'"):
        reason = "must not be null"
    value = content.get(key, "")
    shown = "null" if value is None else str(value)
    return f"{key}={shown}: {reason}" if key in content else f"{key}: {reason}"


def class_named(node: Any, where: str, base: type) -> type:
    """Return the dataclass behind ``_target_``; nothing else is ever called from a configuration."""
    target = str(node.get("_target_")) if OmegaConf.is_dict(node) else str(node)
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        found = _known_as(target, base)
        if found is None:
            raise UserError(f"{where}._target_={target}: cannot be imported ({first_line(error)})") from error
    if not (isinstance(found, type) and issubclass(found, base) and dataclasses.is_dataclass(found)):
        raise UserError(f"{where}._target_={target}: not a dataclass derived from {base.__name__}")
    return found


def _known_as(name: str, base: type) -> type | None:
    """The class of this package with the name that ids are made of, wherever it lies by now."""
    package = import_module(".".join(base.__module__.split(".")[:2]))
    for module in iter_modules(getattr(package, "__path__", [])):
        import_module(f"{package.__name__}.{module.name}")
    found = [kind for kind in _subclasses(base) if identity_name(kind) == name]
    return found[0] if found else None


def _subclasses(base: type) -> Iterator[type]:
    below: list[type] = type.__subclasses__(base)
    for kind in below:
        yield kind
        yield from _subclasses(kind)
