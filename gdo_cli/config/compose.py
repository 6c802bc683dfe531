"""Overrides composed by Hydra, each checked on its own, and what went wrong in one line."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Union

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException

from gdo_cli.config.options import GROUPS, NOT_OF_A_RUN, PLUGGED, conf_dir, options, options_with
from gdo_cli.support.errors import UserError, first_line, suggest

HYDRA = ">=1.3.2,<1.4"  # as in pyproject.toml
try:  # all of Hydra that gdo uses; with another version, this is what fails
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override, OverrideType, QuotedString, Transformer
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from hydra.plugins.search_path_plugin import SearchPathPlugin
    from hydra.types import HydraContext, RunMode
except ImportError as error:
    found = version("hydra-core")
    raise UserError(f"hydra-core {found}: gdo needs another: pip install 'hydra-core{HYDRA}'") from error

__all__ = ["Callbacks", "Composer", "HydraConfig", "HydraContext", "Override", "Plugins", "RunMode"]
__all__ += ["alternatives", "key_of"]
_REFERRED_TO = ("suite", "length")  # the second refers to the first
# What choices of bundled options give: the package's own files stay as they are while it runs.
_BUNDLED: dict[tuple[str, ...], DictConfig] = {}

Conf = Union[Path, "Composer", None]
"""Where options are found beside the bundled ones: a user's own directory, or a composer that many share."""


def key_of(override: Override) -> str:
    """Return the dotted key that an override is of."""
    return str(override.get_key_element()).lstrip("+~")


def alternatives(override: Override) -> dict[Any, str]:
    """Return the values that an override names, one or several, each with its text as an override has it.

    The keys are equal where the values are, however they are written: ``.25``, ``'0.25'`` and ``2.5e-1``.
    """
    named = override.sweep_iterator() if override.is_discrete_sweep() else [override._value]
    option = override.key_or_group in GROUPS  # whose names need no quotes
    values: dict[Any, str] = {}
    for value in named:
        text = value.text if option and isinstance(value, QuotedString) else Transformer.str(value)
        values.setdefault(_meaning(value), text)
    return values


def _meaning(value: Any) -> Any:
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, list):
        return tuple(map(_meaning, value))
    if isinstance(value, dict):
        return frozenset((_meaning(key), _meaning(item)) for key, item in value.items())
    word = str(value)
    if isinstance(value, bool) or value is None or word.lower() in ("true", "false", "null"):
        return "null" if value is None else word.lower()
    try:
        return repr(float(word))  # not the number itself: nan is not equal to nan
    except ValueError:
        return word


class _OwnFirst(SearchPathPlugin):
    """A user's own options win over the bundled ones of their names."""

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: Any) -> None:
        if self.folder is not None:
            search_path.prepend("gdo", f"file://{self.folder.resolve()}", anchor="main")


Plugins.instance().register(_OwnFirst)


class Composer:
    """Hydra on the bundled configuration and a user's own; what a choice of options gives is composed once.

    Composing takes a tenth of a second, and points of a grid differ mostly in values, which are set in a copy
    of what their options gave. Choices of bundled options are shared by all composers; a user's directory may
    change between them.

    Raises:
        UserError: the user's own directory is none.
    """

    @classmethod
    def of(cls, conf: Conf) -> Composer:
        return conf if isinstance(conf, Composer) else cls(conf)

    def __init__(self, config_dir: Path | None = None) -> None:
        if config_dir is not None and not config_dir.is_dir():
            raise UserError(f"--config-dir {config_dir}: no such directory")
        self.config_dir = config_dir
        self._by_options: dict[tuple[str, ...], DictConfig] = {} if config_dir else _BUNDLED
        _OwnFirst.folder = config_dir
        outer = GlobalHydra.instance().hydra  # of a program that uses Hydra itself
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir().resolve()), job_name="gdo", version_base="1.3"):
            self.loader = GlobalHydra.instance().config_loader()
        GlobalHydra.instance().hydra = outer

    def __call__(self, overrides: list[str]) -> DictConfig:
        """Return the composition of the overrides, its interpolations resolved.

        Raises:
            UserError: naming the override that is wrong.
        """
        parsed = self.parse(overrides)
        chosen = sorted((o for o in parsed if o.key_or_group in GROUPS), key=lambda o: str(o.key_or_group))
        lines = tuple(str(o.input_line) for o in chosen)
        if lines not in self._by_options:
            self._by_options[lines] = self.load(list(lines))
        config = copy.deepcopy(self._by_options[lines])
        if not _set(config, [o for o in parsed if o.key_or_group not in GROUPS]):
            config = self.load(overrides)  # Hydra knows how, or what is wrong
        OmegaConf.set_struct(config, False)
        with self.messages(overrides):
            layers = config.get("layers")
            if OmegaConf.is_list(layers) and all(type(index) is int for index in layers):
                config["layers"] = sorted(layers)  # a set of them is the same run in any order
            for key in _REFERRED_TO:
                if key in config:
                    config[key] = config[key]  # resolved once, not for every setting that refers to it
            OmegaConf.resolve(config)
        return config

    def load(self, words: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """Return Hydra's composition, its own settings included for MULTIRUN; ``name`` holds the choices."""
        with self.messages(words):
            config = self.loader.load_configuration("config", overrides=words, run_mode=mode)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            config["name"] = {
                g: str(choices[g]) for g in GROUPS if choices.get(g) and g not in ("probe", "tune")
            }
            if mode is RunMode.RUN:
                config.pop("hydra")
        return config

    def parse(self, words: Sequence[str], sweeps: bool = False) -> list[Override]:
        """Parse each override on its own, so that a message can name the one that is wrong.

        Args:
            sweeps: whether several values may stand in one, and settings of Hydra's own among them.
        """
        parser = OverridesParser.create(config_loader=self.loader)
        return [self._parse_one(parser, word, sweeps) for word in words]

    def _parse_one(self, parser: OverridesParser, text: str, sweeps: bool) -> Override:
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
        if (key := key_of(override)).partition(".")[0] == "name":
            raise UserError(
                f"{key}: no such key; a run's name is made of its options, as task=… and method=…"
            )
        if not sweeps and override.is_hydra_override():
            raise UserError(f"{text}: only 'gdo sweep' takes launchers, sweepers and other settings of Hydra")
        if override.is_sweep_override():
            if not sweeps:
                raise UserError(f"{text}: several values; 'gdo sweep' takes them, this command takes one")
            if override.is_hydra_override():
                raise UserError(f"{text}: several values; only settings of runs can be swept")
        elif group in GROUPS:
            value, known = override.value(), options(group, self.config_dir)
            several = f" (gdo sweep takes several: {group}=a,b without quotes or brackets)"
            if override.is_delete():
                raise UserError(f"{text}: a run needs one; {suggest('', known)}")
            listed = group == "probe" and isinstance(value, list)
            if not (isinstance(value, str) or listed or (group == "experiment" and value is None)):
                raise UserError(f"{text}: name one option{several}; {suggest(str(value), known)}")
            # A name becomes a folder's, and must not lead out of its group.
            names = [str(name) for name in (value if listed else [value])]
            if not all(re.fullmatch(r"(?!.*\.\.)[\w.+-]*", name) for name in names):
                asked = f"name one option{several}" if "," in text else "a name, not a path"
                raise UserError(f"{text}: {asked}; {suggest('', known)}")
        return override

    @contextmanager
    def messages(self, words: Sequence[str] = ()) -> Iterator[None]:
        """Turn what Hydra, OmegaConf and YAML raise into one line each.

        Raises:
            UserError: it names the one of the words that is wrong, where one is.
        """
        try:
            yield
        except yaml.YAMLError as error:
            raise UserError(f"a YAML file cannot be read: {' '.join(str(error).split())}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"a YAML file cannot be read: not UTF-8 ({error.reason})") from error
        except FileNotFoundError as error:  # Hydra asks where it is
            raise UserError("the working directory has been deleted: cd to another one") from error
        except RecursionError as error:
            raise UserError("a YAML file cannot be read: its defaults lead back to itself") from error
        # An AttributeError is a merge into null.
        except (HydraException, OmegaConfBaseException, AttributeError, ValueError) as error:
            raise UserError(self._explain(error, words)) from error

    def _explain(self, error: Exception, words: Sequence[str]) -> str:
        """What composing failed on: an option, or a key, with the ones there are."""
        text, line = str(error), first_line(error)
        if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
            group, _, option = match[1].removesuffix(".yaml").rpartition("/")
            plugged = PLUGGED.get(group, {})
            if extra := plugged.get(option):
                return f"{group}={option}: its plugin is not installed: pip install 'gdo-cli[{extra}]'"
            if group in PLUGGED or group in GROUPS:
                known = options(group, self.config_dir) or self.loader.get_group_options(group)
                return f"{group}={option}: no such option; {suggest(option, {*plugged, *known})}"
        if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:is )?not in", text):
            inner = re.search(r"full_key: (\S+)", text)  # of a value that holds keys itself
            key = inner[1] if inner and inner[1].startswith(f"{match[1]}.") else match[1] or match[2]
            parent, _, last = key.rpartition(".")
            known = self._keys(parent, words)
            first, there = key.partition(".")[0], self._keys("", words)
            if not known and first not in there and first in GROUPS:
                left_out = next((word for word in words if re.match(rf"{first}\W", word)), f"{first}=null")
                known = options(first, self.config_dir)
                return f"{key}: no such key; {left_out} leaves it out; {suggest('', known)}"
            if not known and first not in there:
                return f"{key}: no such key; {suggest(first, there)}"
            if not known:
                instead = f"{parent}=null or {parent}='{{{last}: 1}}'"
                return f"{key}: no such key; {parent} is one value, e.g. {instead}"
            others = (
                options_with(parent, last, self.config_dir) if parent in GROUPS and last not in known else ()
            )
            elsewhere = f" with this {parent}; {', '.join(others)} would take it" if others else ""
            return f"{key}: no such key{elsewhere}; {suggest(last, known)}"
        if isinstance(error, InterpolationResolutionError | GrammarParseError):
            return f"{line}; ${{…}} stands for another setting: write \\${{…}} for these signs themselves"
        if match := re.match(r"Error merging override ([+~])([^=\s]+)", line):
            return f"{match[1]}{match[2]}: settings are neither added nor left out; write {match[2]}=…"
        culprit = next((word for word in words if word.split("=", 1)[0].lstrip("+~") in text), None)
        return f"{culprit}: {line}" if culprit and culprit not in line else line

    def _keys(self, parent: str, words: Sequence[str]) -> list[str]:
        """The keys under a dotted path, given the options that were chosen, for the message."""
        chosen = [word for word in words if word.split("=", 1)[0] in (*GROUPS, *PLUGGED)]
        try:
            config = self.loader.load_configuration("config", overrides=chosen, run_mode=RunMode.RUN)
        except (HydraException, OmegaConfBaseException):
            config = self.loader.load_configuration("config", overrides=[], run_mode=RunMode.RUN)
        node = OmegaConf.select(config, parent, throw_on_missing=False) if parent else config
        keys = map(str, node) if OmegaConf.is_dict(node) else ()
        return [key for key in keys if key not in ("_target_", "hydra", *NOT_OF_A_RUN[1:])]


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
