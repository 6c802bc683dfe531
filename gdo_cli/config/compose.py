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
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gdo_cli.config.options import GROUPS, NOT_OF_A_RUN, PLUGGED, conf_dir, options
from gdo_cli.support.errors import UserError, first_line, suggest

Compose = Callable[[list[str]], DictConfig]
_REFERRED_TO = ("suite", "length")  # the second refers to the first
Composition = tuple[DictConfig, dict[str, str]]


def key_of(override: Override) -> str:
    """Return the dotted key that an override is of."""
    return str(override.get_key_element()).lstrip("+~")


# ---------------------------------------------------------------------------------------- compose


def compose(overrides: list[str], config_dir: Path | None) -> DictConfig:
    """Return the composition of the overrides, its interpolations resolved.

    Raises:
        UserError: naming the override that is wrong.
    """
    with hydra_ready(config_dir):
        return Composer(config_dir)(overrides)


class Composer:
    """Compositions while Hydra is ready: what a choice of options gives is composed once.

    Composing takes a tenth of a second, and points of a grid differ mostly in values, which are set in a copy
    of what their options gave.
    """

    def __init__(self, config_dir: Path | None) -> None:
        self._config_dir = config_dir
        self._by_options: dict[tuple[str, ...], Composition] = {}

    def __call__(self, overrides: list[str]) -> DictConfig:
        with hydra_messages():
            parsed = parse(overrides, self._config_dir)
            config = composed(overrides, self._config_dir, lambda _: self._compose(parsed))
            for key in _REFERRED_TO:
                if key in config:
                    config[key] = config[key]  # resolved once, not for every setting that refers to it
            OmegaConf.resolve(config)
            return config

    def _compose(self, overrides: list[Override]) -> DictConfig:
        values = [o for o in overrides if o.key_or_group not in GROUPS]
        chosen = sorted((o for o in overrides if o.key_or_group in GROUPS), key=lambda o: str(o.key_or_group))
        options = tuple(str(o.input_line) for o in chosen)
        if options not in self._by_options:
            self._by_options[options] = by_hydra(list(options))
        config, names = copy.deepcopy(self._by_options[options])
        if not _set(config, values):  # Hydra knows how, or what is wrong
            config, names = by_hydra([str(o.input_line) for o in overrides])
        OmegaConf.set_struct(config, False)
        config["name"] = names
        return config


def _set(config: DictConfig, values: list[Override]) -> bool:
    """Set values as Hydra does; False where keys are added or deleted, or a value does not go in."""
    if not all(o.type is OverrideType.CHANGE and o.package is None for o in values):
        return False
    try:
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value())
    except (OmegaConfBaseException, AttributeError):
        return False
    return True


def composed(overrides: list[str], config_dir: Path | None, composer: Compose) -> DictConfig:
    """Return what the composer makes of the overrides.

    Raises:
        UserError: what is wrong with them, in one line.
    """
    try:
        return composer(overrides)
    except (HydraException, OmegaConfBaseException, AttributeError) as error:  # the last: a merge into null
        raise UserError(_explain(error, overrides, config_dir)) from error


def by_hydra(overrides: list[str]) -> Composition:
    """Return Hydra's composition and the chosen option of each group."""
    config = hydra_compose("config", overrides=overrides, return_hydra_config=True)
    names = option_names(config)
    with open_dict(config):
        config.pop("hydra")
    return config, names


def option_names(config: DictConfig) -> dict[str, str]:
    """Return the chosen option of each group, of a composition that Hydra's own settings are still part
    of."""
    choices = cast(dict[str, Any], OmegaConf.to_container(config.hydra.runtime.choices))
    return {g: str(choices[g]) for g in GROUPS if choices.get(g) and g != "probe"}


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
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def parse(overrides: list[str], config_dir: Path | None, sweeps: bool = False) -> list[Override]:
    """Parse each override on its own, so that a message can name the one that is wrong.

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
        if keys := _keys(parent, overrides):
            return f"{key}: no such key; {suggest(last, keys)}"
        return f"{key}: no such key; {parent} is one value, e.g. {parent}=null or {parent}='{{{last}: 1}}'"
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


def _keys(parent: str, overrides: list[str]) -> list[str]:
    """The keys under a dotted path, given the options that were chosen, for the message."""
    chosen = [o for o in overrides if o.split("=", 1)[0] in GROUPS]
    try:
        config, _ = by_hydra(chosen)
    except (HydraException, OmegaConfBaseException):
        config, _ = by_hydra([])
    node = OmegaConf.select(config, parent, throw_on_missing=False) if parent else config
    if not OmegaConf.is_dict(node):
        return []
    return [str(key) for key in node if key not in ("_target_", *NOT_OF_A_RUN[1:])]
