"""The Hydra border: overrides go in, a checked :class:`RunConfig` comes out. Nothing else imports
Hydra or OmegaConf, and no DictConfig leaves this module."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from gdo_cli.errors import UserError, suggest
from gdo_cli.schema import DataConfig, EvaluationConfig, RunConfig, TrainConfig, WandbConfig

GROUPS = ("model", "task", "method", "data", "train", "probe", "experiment")
_PLAIN = {
    "data": DataConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
    "wandb": WandbConfig,
}


def conf_dir() -> Path:
    """The bundled configuration: inside the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def load_run(overrides: list[str], config_dir: Path | None = None) -> RunConfig:
    """The run that the overrides describe, checked as far as it can be without loading weights.

    Raises:
        UserError: naming the culprit, the allowed values and the nearest match.
    """
    return _build_run(_compose(overrides, config_dir), overrides)


def load_grid(overrides: list[str], config_dir: Path | None = None) -> list[tuple[list[str], RunConfig]]:
    """Every point of a sweep, as its overrides and its run, in Hydra's order, all checked.

    The grid is the product of the overrides given as Hydra sweeps (``seed=0,1``, ``range(3)``,
    ``glob(*)``) and of ``sweep`` in the chosen experiment, where the former does not mention it.
    """
    with _messages(overrides, config_dir), _hydra(config_dir):
        plain = [o for o in overrides if not _is_sweep(o)]
        experiment = OmegaConf.select(_raw(plain), "sweep") or {}
        named = {o.split("=", 1)[0].lstrip("+~") for o in overrides}
        swept = [f"{key}={value}" for key, value in experiment.items() if key not in named]
        parsed = OverridesParser.create().parse_overrides([*overrides, *swept])
        (points,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [(point, load_run(point, config_dir)) for point in points]


def load_experiment(name: str, config_dir: Path | None = None) -> dict[str, Any]:
    """What an experiment file says of its figure, e.g. ``{"kind": "curves", "title": …}``."""
    config = _compose([f"experiment={name}"], config_dir)
    figure = OmegaConf.select(config, "figure")
    if figure is None:
        raise UserError(f"experiment={name} draws no figure: it has no 'figure' section")
    plain: dict[str, Any] = OmegaConf.to_container(figure, resolve=True)  # type: ignore[assignment]
    return plain


def as_yaml(overrides: list[str], config_dir: Path | None = None) -> str:
    """The composed configuration as YAML, after all the checks of :func:`load_run`."""
    config = _compose(overrides, config_dir)
    _build_run(config, overrides)
    for key in ("sweep", "figure"):
        config.pop(key, None)
    return OmegaConf.to_yaml(config, resolve=True)


def options(group: str, config_dir: Path | None = None) -> list[str]:
    """The options of a config group, the user's own directory included."""
    roots = [conf_dir(), *([config_dir] if config_dir else [])]
    return sorted({file.stem for root in roots for file in (root / group).glob("*.yaml")})


# ---------------------------------------------------------------------------------------- compose


def _compose(overrides: list[str], config_dir: Path | None) -> DictConfig:
    with _messages(overrides, config_dir), _hydra(config_dir):
        config = _raw(overrides)
        OmegaConf.set_struct(config, False)
        OmegaConf.resolve(config)
        return config


def _raw(overrides: list[str]) -> DictConfig:
    """The composition, with the chosen option of each group noted under ``name``."""
    config = hydra_compose("config", overrides=overrides, return_hydra_config=True)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(choices, dict)
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    config["name"] = {g: str(choices[g]) for g in GROUPS if choices.get(g) and g != "probe"}
    return config


@contextmanager
def _hydra(config_dir: Path | None) -> Iterator[None]:
    """Hydra set up on the bundled configuration, and on the user's own directory over it."""
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: no such directory")
    GlobalHydra.instance().clear()
    # The user's directory comes first, so that its files win over bundled ones of the same name.
    main, extra = (config_dir, conf_dir()) if config_dir else (conf_dir(), None)
    with initialize_config_dir(str(Path(main).resolve()), version_base="1.3"):
        if extra is not None:
            search = GlobalHydra.instance().config_loader().get_search_path()
            search.append("gdo", f"file://{extra.resolve()}")
        yield


def _is_sweep(override: str) -> bool:
    parsed = OverridesParser.create().parse_override(override)
    return bool(parsed.is_sweep_override())


# ------------------------------------------------------------------------------------------ build


def _build_run(config: DictConfig, overrides: list[str]) -> RunConfig:
    fields: dict[str, Any] = {"overrides": overrides}
    for key, node in config.items():
        key = str(key)
        if key in ("sweep", "figure"):
            continue
        if key == "probe":
            # An experiment may set up a probe that is not chosen: without _target_, it is none.
            chosen = {str(n): p for n, p in (node or {}).items() if "_target_" in p}
            fields[key] = {name: _build(p, f"probe.{name}") for name, p in chosen.items()}
        elif key in _PLAIN or key in ("model", "task", "method"):
            fields[key] = _build(node, key, _PLAIN.get(key))
        else:
            fields[key] = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    allowed = set(RunConfig.__dataclass_fields__)
    if unknown := sorted(set(fields) - allowed):
        raise UserError(f"{unknown[0]}: no such key; {suggest(unknown[0], allowed)}")
    for group in ("model", "task", "method"):
        if group not in fields:
            raise UserError(f"{group}: must be chosen; {suggest('', options(group))}")
    fields.setdefault("probe", {})
    if not isinstance(fields["seed"], int) or fields["seed"] < 0:
        raise UserError(f"seed={fields['seed']}: must be a whole number, 0 or more")
    run = RunConfig(**fields)
    _check_layers(run)
    return run


def _check_layers(run: RunConfig) -> None:
    """``layers`` is a choice that only some methods have."""
    choice = run.layers
    if isinstance(choice, bool) or not (
        choice == "all"
        or (isinstance(choice, int) and choice > 0)
        or (isinstance(choice, list) and choice and all(type(i) is int and i >= 0 for i in choice))
    ):
        raise UserError(f"layers={choice}: give all, a number of layers, or a list such as [0,5,11]")
    if choice != "all" and "layers" not in run.method.__dataclass_fields__:
        raise UserError(
            f"layers={run.layers}: method={run.name['method']} trains the whole model and takes no "
            "layers; leave it out, or choose a method that grows layers (g_freeze, g_train)"
        )


def _build(node: DictConfig, where: str, schema: type | None = None) -> Any:
    """The dataclass named by ``_target_``; unknown keys and wrong types raise."""
    if not OmegaConf.is_dict(node):
        raise UserError(f"{where}={node}: no option of this group; {suggest(str(node), options(where))}")
    content = cast(dict[str, Any], OmegaConf.to_container(node))
    target = content.pop("_target_", None)
    if schema is None:
        schema = _dataclass_named(str(target), where)
    for key, value in content.items():
        if value == "???":
            raise UserError(f"{where}.{key}: needs a value; give it as {where}.{key}=…")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), content)
        return OmegaConf.to_object(typed)
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key or error.key or "")
        allowed = [field.name for field in dataclasses.fields(schema)]
        raise UserError(f"{where}.{key}: no such key; {suggest(key, allowed)}") from error
    except ValidationError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where}.{error.full_key}: {reason}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error


def _dataclass_named(target: str, where: str) -> type:
    """The dataclass behind ``_target_``; nothing else is ever called from a configuration."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}._target_={target}: cannot be imported ({error})") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"{where}._target_={target}: not a dataclass")
    return found


# --------------------------------------------------------------------------------------- messages


@contextmanager
def _messages(overrides: list[str], config_dir: Path | None) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into one line each."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, overrides, config_dir)) from error


def _explain(error: Exception, overrides: list[str], config_dir: Path | None) -> str:
    text = str(error)
    if match := re.search(r"Could not find '([^']+)'|In '[^']*': Could not load '([^']+)'", text):
        group, _, option = (match[1] or match[2]).removesuffix(".yaml").rpartition("/")
        if group in GROUPS:
            return f"{group}={option}: no such option; {suggest(option, options(group, config_dir))}"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        parent, _, last = key.rpartition(".")
        return f"{key}: no such key; {suggest(last, _keys(parent, config_dir))}"
    if match := re.search(r"Key '([^']+)' is not in struct|Key '([^']+)' not in", text):
        return f"{match[1] or match[2]}: no such key; {suggest(match[1] or match[2], _keys('', config_dir))}"
    if "Could not find match for config group" in text or "Could not override" in text:
        key = next((o.split("=", 1)[0] for o in overrides if o.split("=", 1)[0] in text), text)
        return f"{key}: no such group or key; {suggest(key, _keys('', config_dir))}"
    culprit = next((o for o in overrides if o in text), None)
    first = next(itertools.chain((ln for ln in text.splitlines() if ln.strip()), [text]))
    if culprit is not None and culprit not in first:
        first = f"{culprit}: {first}"
    return f"{first} (overrides are written key=value, e.g. task=scitail train.lr=1e-4)"


def _keys(parent: str, config_dir: Path | None) -> list[str]:
    """The keys under a dotted path of the default configuration, for the message."""
    with _hydra(config_dir):
        node = OmegaConf.select(_raw([]), parent) if parent else _raw([])
    if not OmegaConf.is_dict(node):
        return []
    return [str(key) for key in node if key not in ("_target_", "name", "sweep", "figure")]
