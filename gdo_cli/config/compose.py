"""Overrides composed by Hydra, each checked on its own, and what went wrong in one line."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
from omegaconf.errors import OmegaConfBaseException

from gdo_cli.config.options import GROUPS, NOT_OF_A_RUN, PLUGGED, conf_dir, options
from gdo_cli.support.errors import UserError, first_line, suggest

Compose = Callable[[list[str]], DictConfig]


def key_of(override: Override) -> str:
    """Return the dotted key that an override is of."""
    return str(override.get_key_element()).lstrip("+~")


# ---------------------------------------------------------------------------------------- compose


def compose(overrides: list[str], config_dir: Path | None) -> DictConfig:
    with hydra_messages(), hydra_ready(config_dir):
        parse(overrides, config_dir)
        config = composed(overrides, config_dir)
        OmegaConf.resolve(config)
        return config


def composed(overrides: list[str], config_dir: Path | None, composer: Compose | None = None) -> DictConfig:
    """The composition, or what is wrong with it in one line."""
    try:
        return composer(overrides) if composer else _raw(overrides, config_dir)
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
        raise UserError(first_line(error)) from error


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
    return (
        f"{culprit}: {first_line(error)}"
        if culprit and culprit not in first_line(error)
        else first_line(error)
    )


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
    return [str(key) for key in node if key not in ("_target_", *NOT_OF_A_RUN[1:])]
