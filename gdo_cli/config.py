"""The Hydra border: overrides go in, a checked :class:`RunConfig` comes out. Nothing but this module and
its neighbours, :mod:`gdo_cli.grid` and :mod:`gdo_cli.launch`, imports Hydra or OmegaConf, and no
DictConfig leaves them."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, cast

import yaml
from hydra import compose as hydra_compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from gdo_cli.errors import UserError, brief, suggest
from gdo_cli.identity import identity_name
from gdo_cli.methods import Method, layer_indices
from gdo_cli.models import ModelSource
from gdo_cli.probes import Probe
from gdo_cli.schema import DataConfig, EvaluationConfig, RunConfig, TrainConfig, WandbConfig
from gdo_cli.tasks import Task

GROUPS = ("model", "task", "method", "data", "train", "probe", "experiment")
# Hydra's own groups that plugins add to, and the extra of this package that brings each of them.
PLUGGED = {
    "hydra/launcher": {
        "joblib": "joblib",
        "submitit_local": "submitit",
        "submitit_slurm": "submitit",
        "ray": "ray",
    },
    "hydra/sweeper": {"optuna": "optuna"},
}
# The parts of a run: those of a fixed type, and those whose YAML names a dataclass of the base type.
_PLAIN = {
    "data": DataConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
    "wandb": WandbConfig,
}
_NAMED = {"model": ModelSource, "task": Task, "method": Method}
# Keys of the composition that are no part of a run.
_BESIDE = ("probe", "sweep", "suite", "suites", "length", "figure", "name")
Compose = Callable[[list[str]], DictConfig]


@dataclass
class _Top:
    """The settings that belong to no part."""

    layers: Any = "all"
    layer_rule: str = "pilot"
    seed: int = 0
    results_dir: str = "results"
    save_weights: bool = True


def conf_dir() -> Path:
    """The bundled configuration: inside the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def load_run(overrides: list[str], config_dir: Path | None = None) -> RunConfig:
    """The run that the overrides describe, checked as far as it can be without loading weights.

    Raises:
        UserError: naming the culprit, the allowed values and the nearest match.
    """
    return _build_run(_compose(overrides, config_dir), overrides, config_dir)


def load_experiment(name: str, config_dir: Path | None = None) -> Any:
    """What an experiment file says of its figure, unchecked, e.g. ``{"kind": "curves", …}``; or None."""
    figure = OmegaConf.select(_compose([f"experiment={name}"], config_dir), "figure")
    return OmegaConf.to_container(figure, resolve=True) if OmegaConf.is_config(figure) else figure


def as_yaml(overrides: list[str], config_dir: Path | None = None) -> str:
    """The composed configuration as YAML, after all the checks of :func:`load_run`."""
    config = _compose(overrides, config_dir)
    _build_run(config, overrides, config_dir)
    for key in _BESIDE[1:]:
        config.pop(key, None)
    return OmegaConf.to_yaml(config, resolve=True)


def build_method(recorded: dict[str, Any]) -> Method:
    """Return a run's method from its record.

    Args:
        recorded: its settings, and its class as ``_target_``.
    """
    node = OmegaConf.create(_without_nested_targets(recorded))
    return cast(Method, _build(node, "method", _named(node, "method", Method)))


def load_recorded(
    recorded: dict[str, Any],
    name: dict[str, str],
    given: list[str],
    extra: list[str],
    config_dir: Path | None = None,
) -> RunConfig:
    """Return a run as its record has it, whatever has become of the YAML files since.

    Args:
        recorded: the run's configuration as :func:`gdo_cli.identity.identity` had it.
        name: the options that were chosen.
        given: the words that it was composed from; they give what no record holds, such as batch budgets.
        extra: overrides that win over the record.
    Raises:
        UserError: an override that does not fit, or a class that is gone.
    """
    try:
        base = load_run([*given, *extra], config_dir)
    except UserError:  # the files have changed; what decides the numbers is in the record
        base = load_run(extra, config_dir)
    with hydra_messages(), hydra_ready(config_dir):
        words = parse(extra, config_dir)
    chosen = {o.key_or_group for o in words if o.key_or_group in GROUPS}
    values = {key_of(o): o.value() for o in words if o.key_or_group not in GROUPS and not o.is_delete()}

    def rebuilt(key: str, content: Any, here: Any, base_type: type) -> Any:
        if key in chosen:
            return here
        kind = _named(OmegaConf.create(content), key, base_type) if key in _NAMED or "." in key else base_type
        node = OmegaConf.create(_beside_identity(here, kind) | _without_nested_targets(content))
        for path, value in values.items():
            if path.startswith(f"{key}."):
                OmegaConf.update(node, path.removeprefix(f"{key}."), value)
        return _build(node, key, kind)

    parts = {
        key: rebuilt(key, recorded[key], getattr(base, key), kind)
        for key, kind in (_NAMED | _PLAIN).items()
        if key in recorded
    }
    probes = base.probe
    if "probe" not in chosen:
        probes = {
            probe: rebuilt(f"probe.{probe}", content, base.probe.get(probe), Probe)
            for probe, content in recorded["probe"].items()
        }
    top = {key: recorded[key] for key in ("layers", "layer_rule", "seed") if key not in values}
    names = {**name, **{key: base.name[key] for key in chosen & base.name.keys()}}
    return dataclasses.replace(base, probe=probes, name=names, overrides=[*given, *extra], **parts, **top)


def _beside_identity(here: Any, kind: type) -> dict[str, Any]:
    """The fields of a part that stay out of records: as they are here, or by default."""
    fields = [f for f in dataclasses.fields(kind) if f.metadata.get("identity", True) is False]
    kept = {f.name: getattr(here, f.name) for f in fields if isinstance(here, kind)}
    # Defaults of a model for runs to come; this one has its own rate.
    needed = {f.name: 0 for f in fields if f.default is dataclasses.MISSING}
    return needed | kept


def _without_nested_targets(content: Any) -> Any:
    """Plain data whose own class is named, and those of its fields' values are not."""
    return {
        key: {k: v for k, v in _without_nested_targets(value).items() if k != "_target_"}
        if isinstance(value, dict)
        else value
        for key, value in content.items()
    }


def key_of(override: Override) -> str:
    """Return the dotted key that an override is of."""
    return str(override.get_key_element()).lstrip("+~")


def options(group: str, config_dir: Path | None = None) -> list[str]:
    """The options of a config group, the user's own directory included."""
    roots = [conf_dir(), *([config_dir] if config_dir else [])]
    return sorted({file.stem for root in roots for file in (root / group).glob("*.yaml") if file.is_file()})


def quoted(text: str) -> str:
    """Text as Hydra's overrides quote it: backslashes count double before a quote and at the end alone."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + m[2].replace("'", "\\'"), text) + "'"


# ---------------------------------------------------------------------------------------- compose


def _compose(overrides: list[str], config_dir: Path | None) -> DictConfig:
    with hydra_messages(), hydra_ready(config_dir):
        parse(overrides, config_dir)
        config = composed(overrides, config_dir)
        OmegaConf.resolve(config)
        return config


def composed(overrides: list[str], config_dir: Path | None, compose: Compose | None = None) -> DictConfig:
    """The composition, or what is wrong with it in one line."""
    try:
        return compose(overrides) if compose else _raw(overrides, config_dir)
    except (HydraException, OmegaConfBaseException, AttributeError) as error:  # the last: a merge into null
        raise UserError(_explain(error, overrides, config_dir)) from error


# What Hydra composes of options alone, by their words and the files that they may come from.
_COMPOSED: dict[tuple[Any, ...], tuple[DictConfig, dict[str, str]]] = {}


def _raw(overrides: list[str], config_dir: Path | None) -> DictConfig:
    """The composition, with the chosen option of each group noted under ``name``.

    Hydra composes options, which takes a tenth of a second, and then sets values in what comes of them.
    Points of a grid that differ in values alone share the first part.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = parser.parse_overrides(overrides)
    values = [p for p in parsed if p.key_or_group not in GROUPS and not p.is_hydra_override()]
    chosen = [o for o, p in zip(overrides, parsed, strict=True) if p not in values]
    key = (*chosen, _files(config_dir))
    if key not in _COMPOSED:
        composed = hydra_compose("config", overrides=chosen, return_hydra_config=True)
        names = option_names(composed)
        OmegaConf.set_struct(composed, False)
        composed.pop("hydra")
        _COMPOSED[key] = composed, names
    base, names = _COMPOSED[key]
    config = copy.deepcopy(base)
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    OmegaConf.set_struct(config, False)
    config["name"] = names
    return config


def option_names(config: DictConfig) -> dict[str, str]:
    """The chosen option of each group, of a composition that Hydra's own settings are still part of."""
    choices = cast(dict[str, Any], OmegaConf.to_container(config.hydra.runtime.choices))
    return {g: str(choices[g]) for g in GROUPS if choices.get(g) and g != "probe"}


# The parsed files of a state of the configuration, by their paths in it.
_LOADED: dict[tuple[Any, ...], dict[str, Any]] = {}


def _remember_files(config_dir: Path | None) -> None:
    """Have Hydra parse a file once; it would do so for every composition, which takes half of its time."""
    repository = GlobalHydra.instance().config_loader().repository
    load = repository.load_config
    loaded = _LOADED.setdefault(_files(config_dir), {})

    def load_config(config_path: str) -> Any:
        if config_path not in loaded:
            loaded[config_path] = load(config_path)
        return copy.deepcopy(loaded[config_path])

    repository.load_config = load_config


def _files(config_dir: Path | None) -> tuple[Any, ...]:
    """Every YAML file there is, with its size and the time of its last change."""
    roots = [conf_dir(), *([config_dir] if config_dir else [])]
    files = sorted(file for root in roots for file in root.rglob("*.yaml"))
    return tuple((str(file), (info := file.stat()).st_size, info.st_mtime_ns) for file in files)


@contextmanager
def hydra_ready(config_dir: Path | None) -> Iterator[None]:
    """Hydra set up on the bundled configuration, and on the user's own directory before it."""
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: no such directory")
    search = create_config_search_path(str(conf_dir().resolve()))
    if config_dir is not None:
        search.prepend("gdo", f"file://{config_dir.resolve()}", anchor="main")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("gdo", search)
    _remember_files(config_dir)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def parse(overrides: list[str], config_dir: Path | None, sweeps: bool = False) -> list[Override]:
    """Each override parsed on its own, so that a message can name the one that is wrong.

    Args:
        sweeps: whether several values may stand in one, and settings of Hydra's own among them.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return [_parse_one(parser, override, config_dir, sweeps) for override in overrides]


def _parse_one(parser: OverridesParser, text: str, config_dir: Path | None, sweeps: bool) -> Override:
    try:
        (override,) = parser.parse_overrides([text])
        if override.is_discrete_sweep():
            list(override.sweep_string_iterator())
    except (HydraException, ValueError) as error:
        raise UserError(
            f"{text}: not an override; they are written key=value, e.g. task=scitail train.lr=1e-4 "
            "(quote values with spaces or brackets)"
        ) from error
    group = override.key_or_group
    if not group:
        raise UserError(f"{text}: not an override; they are written key=value")
    if not sweeps and override.is_hydra_override():
        raise UserError(f"{text}: only 'gdo sweep' takes launchers, sweepers and other settings of Hydra")
    if override.is_sweep_override():
        if not sweeps:
            raise UserError(f"{text}: several values; 'gdo sweep' takes them, this command takes one")
        if override.is_hydra_override():
            raise UserError(f"{text}: several values; only settings of runs can be swept")
    elif group in GROUPS:
        value = override.value()
        if override.is_delete():
            raise UserError(f"{text}: a run needs one; {suggest('', options(group, config_dir))}")
        listed = group == "probe" and isinstance(value, list)
        if not (isinstance(value, str) or listed or (group == "experiment" and value is None)):
            raise UserError(f"{text}: name one option; {suggest(str(value), options(group, config_dir))}")
        # A name becomes a folder's, and must not lead out of its group.
        names = [str(name) for name in (value if listed else [value])]
        if not all(re.fullmatch(r"(?!.*\.\.)[\w.+-]*", name) for name in names):
            raise UserError(f"{text}: a name, not a path; {suggest('', options(group, config_dir))}")
    return override


# ------------------------------------------------------------------------------------------ build


def _build_run(config: DictConfig, overrides: list[str], config_dir: Path | None) -> RunConfig:
    parts: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, node in config.items():
        key = str(key)
        if key in _PLAIN:
            parts[key] = _build(node, key, _PLAIN[key])
        elif key in _NAMED:
            parts[key] = _build(node, key, _named(node, key, _NAMED[key]))
        elif key not in _BESIDE:
            rest[key] = node
    for key in (*_NAMED, *_PLAIN):
        if key not in parts:
            raise UserError(f"~{key}: a run needs one; {suggest('', options(key, config_dir))}")
    parts["data"] = parts["data"].resolve()
    top = _build(OmegaConf.create(rest), "", _Top)
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
            probes[str(name)] = _build(fields, where, _named(fields, where, Probe))
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


def _build(node: Any, where: str, schema: type) -> Any:
    """The dataclass filled from the node; unknown keys, wrong types and open values raise."""
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
        raise UserError(f"{where}: {brief(error)}") from error


_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def _wrong_type(error: ValidationError, content: dict[str, Any]) -> str:
    """``lr=abc: must be a number``, from what OmegaConf says of a value."""
    key, reason = str(error.full_key), brief(error)
    for name, meaning in _TYPES.items():
        if reason.endswith(f"could not be converted to {name}"):
            reason = f"must be {meaning}"
    if reason.startswith("Incompatible value 'None'"):
        reason = "must not be null"
    value = content.get(key, "")
    shown = "null" if value is None else str(value)
    return f"{key}={shown}: {reason}" if key in content else f"{key}: {reason}"


def _named(node: Any, where: str, base: type) -> type:
    """The dataclass behind ``_target_``; nothing else is ever called from a configuration."""
    target = str(node.get("_target_")) if OmegaConf.is_dict(node) else str(node)
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        found = _known_as(target, base)
        if found is None:
            raise UserError(f"{where}._target_={target}: cannot be imported ({brief(error)})") from error
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


# --------------------------------------------------------------------------------------- messages


@contextmanager
def hydra_messages() -> Iterator[None]:
    """Turn what Hydra, OmegaConf and YAML raise into one line each."""
    try:
        yield
    except yaml.YAMLError as error:
        raise UserError(f"a YAML file cannot be read: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"a YAML file cannot be read: not UTF-8 ({error.reason})") from error
    except RecursionError as error:
        raise UserError("a YAML file cannot be read: its defaults lead back to itself") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(brief(error)) from error


def _explain(error: Exception, overrides: list[str], config_dir: Path | None) -> str:
    """What composing failed on: an option, or a key, with the ones there are."""
    text = str(error)
    if match := re.search(r"Could not find '([^']+)'|Could not load '([^']+)'", text):
        group, _, option = (match[1] or match[2]).removesuffix(".yaml").rpartition("/")
        if group in PLUGGED:
            return _no_plugin(group, option)
        if group in GROUPS:
            return f"{group}={option}: no such option; {suggest(option, options(group, config_dir))}"
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:is not in struct|not in)", text):
        key = match[1] or match[2]
        parent, _, last = key.rpartition(".")
        return f"{key}: no such key; {suggest(last, _keys(parent, overrides, config_dir))}"
    culprit = next((o for o in overrides if o.split("=", 1)[0].lstrip("+~") in text), None)
    return f"{culprit}: {brief(error)}" if culprit and culprit not in brief(error) else brief(error)


def _no_plugin(group: str, option: str) -> str:
    known = GlobalHydra.instance().config_loader().get_group_options(group)
    if extra := PLUGGED[group].get(option):
        return f"{group}={option}: its plugin is not installed: pip install 'gdo-cli[{extra}]'"
    return f"{group}={option}: no such option; {suggest(option, {*known, *PLUGGED[group]})}"


def _keys(parent: str, overrides: list[str], config_dir: Path | None) -> list[str]:
    """The keys under a dotted path, given the options that were chosen, for the message."""
    chosen = [o for o in overrides if o.split("=", 1)[0] in GROUPS]
    try:
        config = _raw(chosen, config_dir)
    except (HydraException, OmegaConfBaseException):
        config = _raw([], config_dir)
    node = OmegaConf.select(config, parent, throw_on_missing=False) if parent else config
    if not OmegaConf.is_dict(node):
        return []
    return [str(key) for key in node if key not in ("_target_", *_BESIDE[1:])]
