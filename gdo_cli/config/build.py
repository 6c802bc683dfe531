"""A checked :class:`RunConfig`, from a composition or from a finished run's record. No DictConfig leaves this
package."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from gdo_cli.config.compose import Composer, Conf, key_of
from gdo_cli.config.options import GROUPS, NOT_OF_A_RUN, literal, options, quoted
from gdo_cli.config.run_config import RunConfig, Settings, StopConfig, WandbConfig
from gdo_cli.data.config import DataConfig
from gdo_cli.evaluation.config import EvaluationConfig
from gdo_cli.evaluation.contract import Contract
from gdo_cli.methods.base import Method, layer_indices
from gdo_cli.models.loading import ModelSource
from gdo_cli.probes.base import Probe
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError, first_line, suggest
from gdo_cli.support.identity import identity, identity_name
from gdo_cli.tasks.base import Task
from gdo_cli.training.config import TrainConfig

PARTS: dict[str, type] = {"model": ModelSource, "task": Task, "method": Method, "data": DataConfig}
PARTS |= {
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
    "keep": Contract,
    "stop": StopConfig,
    "wandb": WandbConfig,
}
NAMED = (ModelSource, Task, Method, Probe)  # bases of the classes that YAML names


def load_run(overrides: list[str], conf: Conf = None) -> RunConfig:
    """Return the run that the overrides describe, checked as far as it can be without loading weights.

    Raises:
        UserError: naming the culprit, the allowed values and the nearest match.
    """
    composer = Composer.of(conf)
    return _build_run(composer(overrides), overrides, composer.config_dir)


def load_experiment(name: str, config_dir: Path | None = None) -> Any:
    """Return an experiment's figure as its file has it, e.g. ``{"kind": "curves", …}``; or None."""
    figure = OmegaConf.select(Composer(config_dir)([f"experiment={name}"]), "figure")
    return OmegaConf.to_container(figure, resolve=True) if OmegaConf.is_config(figure) else figure


def as_yaml(overrides: list[str], config_dir: Path | None = None) -> str:
    """Return the composed configuration as YAML, after all the checks of :func:`load_run`."""
    config = Composer(config_dir)(overrides)
    _build_run(config, overrides, config_dir)
    for key in NOT_OF_A_RUN[1:]:
        config.pop(key, None)
    return OmegaConf.to_yaml(config, resolve=True)


def rebuild(run: RunResult, conf: Conf, extra: Sequence[str] = ()) -> RunConfig:
    """Return what a finished run was made with, from its record, whatever has become of the YAML files since.

    Args:
        extra: overrides that win over the record, other probes among them.
    Raises:
        UserError: the run holds what this version does not know, or an override that does not fit.
    """
    try:
        return _rebuilt(run, extra, Composer.of(conf))
    except UserError as error:
        raise UserError(f"{run.title}: {error}") from error


def _rebuilt(run: RunResult, extra: Sequence[str], composer: Composer) -> RunConfig:
    others = tuple(g for g in ("probe", "keep") if any(word.startswith(f"{g}=") for word in extra))
    given = [str(w) for w in run.record.overrides if not str(w).startswith(others)]
    *_, results = run.path.resolve().parents[:5]  # a folder that was moved may lie less deep
    words = [f"results_dir={quoted(str(results))}", *extra]
    parsed = composer.parse(words)
    try:  # for what no record holds, such as batch budgets
        config = composer([*given, *words])
    except UserError:  # the files have changed; numbers hang on the record alone
        config = composer(words)
    recorded = identity(run.record.config)  # OmegaConf takes plain dictionaries alone
    if run.record.keep:
        recorded["keep"] = run.record.keep
    chosen = {o.key_or_group for o in parsed if o.key_or_group in GROUPS}
    for key, base in PARTS.items():
        if key in recorded and key not in chosen:
            config[key] = _as_recorded(recorded[key], config.get(key), key, base)
    if "probe" not in chosen:
        probes, here = recorded["probe"], config.get("probe") or {}
        config["probe"] = {p: _as_recorded(probes[p], here.get(p), f"probe.{p}", Probe) for p in probes}
    config.update({key: recorded[key] for key in ("layers", "layer_rule", "seed")})
    config["name"] = {**run.name, **{key: config.name[key] for key in chosen & config.name.keys()}}
    for override in parsed:
        if override.key_or_group not in GROUPS and not override.is_delete():
            OmegaConf.update(config, key_of(override), override.value())
    return _build_run(config, [*given, *words], composer.config_dir)


def _as_recorded(content: dict[str, Any], here: Any, where: str, base: type) -> dict[str, Any]:
    """What is recorded of a part, beside what never is: as it is here, or by default."""
    kind = _kind(content, where, base)
    apart = [f for f in dataclasses.fields(kind) if f.metadata.get("identity", True) is False]
    # Defaults of a model for runs to come; this one has its own rate.
    kept: dict[str, Any] = {f.name: 0 for f in apart if f.default is dataclasses.MISSING}
    with suppress(UserError):
        if OmegaConf.is_dict(here) and _kind(here, where, base) is kind:
            kept |= {f.name: here[f.name] for f in apart if f.name in here}
    return kept | content


def _build_run(config: DictConfig, overrides: list[str], config_dir: Path | None) -> RunConfig:
    for key in PARTS:
        if key not in config:
            raise UserError(f"~{key}: a run needs one; {suggest('', options(key, config_dir))}")
    parts = {key: build_part(config[key], key, base) for key, base in PARTS.items()}
    parts["data"] = parts["data"].resolve()
    rest = {str(key): node for key, node in config.items() if key not in (*PARTS, *NOT_OF_A_RUN)}
    settings = build_part(rest, "", Settings)
    if isinstance(rest.get("seed"), bool) or not 0 <= settings.seed < 2**63:
        raise UserError(f"seed={rest['seed']}: must be a whole number, 0 or more, below 2^63")
    probes: dict[str, Probe] = {}
    for name, node in (config.get("probe") or {}).items():
        if OmegaConf.is_dict(node) and "_target_" in node:
            probes[str(name)] = build_part(node, f"probe.{name}", Probe)
        # An experiment may set up a probe that is not chosen.
        elif name not in (known := options("probe", config_dir)):
            raise UserError(f"probe.{name}: no such probe; {suggest(str(name), known)}")
    names = cast(dict[str, str], OmegaConf.to_container(config.name))
    run = RunConfig(name=names, overrides=overrides, probe=probes, **parts, **vars(settings))
    _check_layers(run)
    run.keep.promises(probes)  # refuses what is not asked
    return run


def _check_layers(run: RunConfig) -> None:
    """``layers`` is a choice that only some methods have."""
    choice = getattr(run.method, "layers", run.layers)
    if type(choice) is not int or choice < 1:
        layer_indices(choice, run.model.depth(run.name["model"]))
    if run.layers != "all" and not hasattr(run.method, "layers"):
        raise UserError(
            f"layers={run.layers}: method={run.name['method']} takes no layers; leave it out, or choose a "
            "method that works on layers (g_freeze, g_train, mlp_only, …)"
        )


# Parts that were built from the same values are the same object: a grid's points share most of them.
_BUILT: dict[tuple[type, str, str], Any] = {}
_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def build_part(node: Any, where: str, base: type) -> Any:
    """Return the dataclass filled from the node; unknown keys, wrong types and open values raise."""
    kind = _kind(node, where, base)
    allowed = [field.name for field in dataclasses.fields(kind)]
    prefix = f"{where}." if where else ""
    if not isinstance(node, dict | DictConfig):
        raise UserError(f"{where}={node}: this holds keys, write {prefix}KEY=…; {suggest('', allowed)}")
    content = _literal(OmegaConf.to_container(OmegaConf.create(node)))
    for key, value in content.items():
        if value == "???":
            raise UserError(f"{prefix}{key}: needs a value; give it as {prefix}{key}=…")
    for name, hint in get_type_hints(kind).items():  # it would become "True", or 1.50 "1.5"
        if hint in (str, str | None) and isinstance(value := content.get(name), (bool, float)):
            raise UserError(
                f"{prefix}{name}={value}: this is text; write '{prefix}{name}=\"…\"', with both quotes"
            )
    known = (kind, where, repr(content))
    try:
        if known not in _BUILT:
            _BUILT[known] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), content))
        return _BUILT[known]
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key or error.key or "")
        raise UserError(f"{prefix}{key}: no such key; {suggest(key, allowed)}") from error
    except ValidationError as error:
        raise UserError(f"{prefix}{_wrong_type(error, content)}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {first_line(error)}") from error


def _literal(content: Any) -> Any:
    """Plain data that is read as it stands, without the names of classes, which the fields' types tell."""
    if isinstance(content, dict):
        return {key: _literal(value) for key, value in content.items() if key != "_target_"}
    if isinstance(content, list):
        return [_literal(value) for value in content]
    return literal(content) if isinstance(content, str) else content


def _wrong_type(error: ValidationError, content: dict[str, Any]) -> str:
    """``lr=abc: must be a number``, from what OmegaConf says of a value."""
    key, reason = str(error.full_key), first_line(error)
    wanted = _TYPES.get(reason.rpartition("could not be converted to ")[2])
    if wanted or reason.startswith("Incompatible value 'None'"):
        reason = f"must be {wanted}" if wanted else "must not be null"
    if key not in content:
        return f"{key}: {reason}"
    return f"{key}={'null' if content[key] is None else content[key]}: {reason}"


def _kind(node: Any, where: str, base: type) -> type:
    """The dataclass that a node is of; nothing but one of the base is ever called from a configuration."""
    if base not in NAMED:
        return base
    target = str(node.get("_target_") if isinstance(node, dict | DictConfig) else node)
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
    return next((kind for kind in _below(base) if identity_name(kind) == name), None)


def _below(base: type) -> list[type]:
    children: list[type] = type.__subclasses__(base)
    return [kind for child in children for kind in (child, *_below(child))]
