"""A finished run's configuration, from its record."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from gdo_cli.config.build import NAMED_PARTS, PLAIN_PARTS, build_part, class_named, load_run
from gdo_cli.config.compose import Composer, hydra_messages, hydra_ready, key_of, parse
from gdo_cli.config.options import GROUPS
from gdo_cli.config.run_config import RunConfig
from gdo_cli.methods.base import Method
from gdo_cli.probes.base import Probe
from gdo_cli.support.errors import UserError


def build_method(recorded: dict[str, Any]) -> Method:
    """Return a run's method from its record.

    Args:
        recorded: its settings, and its class as ``_target_``.
    """
    node = OmegaConf.create(_without_nested_targets(recorded))
    return cast(Method, build_part(node, "method", class_named(node, "method", Method)))


def load_recorded(
    recorded: dict[str, Any],
    name: dict[str, str],
    given: list[str],
    extra: list[str],
    config_dir: Path | None = None,
    composer: Composer | None = None,
) -> RunConfig:
    """Return a run as its record has it, whatever has become of the YAML files since.

    Args:
        recorded: the run's configuration as :func:`gdo_cli.support.identity.identity` had it.
        name: the options that were chosen.
        given: the words that it was composed from; they give what no record holds, such as batch budgets.
        extra: overrides that win over the record.
        composer: shared by many runs, while Hydra is ready.
    Raises:
        UserError: an override that does not fit, or a class that is gone.
    """
    base = _composed_somehow(given, extra, config_dir, composer)
    with hydra_messages(), nullcontext() if composer else hydra_ready(config_dir):
        words = parse(extra, config_dir)
    chosen = {o.key_or_group for o in words if o.key_or_group in GROUPS}
    values = {key_of(o): o.value() for o in words if o.key_or_group not in GROUPS and not o.is_delete()}

    def rebuilt(key: str, content: Any, here: Any, base_type: type) -> Any:
        if key in chosen:
            return here
        kind = (
            class_named(OmegaConf.create(content), key, base_type)
            if key in NAMED_PARTS or "." in key
            else base_type
        )
        node = OmegaConf.create(_beside_identity(here, kind) | _without_nested_targets(content))
        for path, value in values.items():
            if path.startswith(f"{key}."):
                OmegaConf.update(node, path.removeprefix(f"{key}."), value)
        return build_part(node, key, kind)

    parts = {
        key: rebuilt(key, recorded[key], getattr(base, key), kind)
        for key, kind in (NAMED_PARTS | PLAIN_PARTS).items()
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


def _composed_somehow(
    given: list[str], extra: list[str], config_dir: Path | None, composer: Composer | None
) -> RunConfig:
    """A composition for what no record holds; files may have changed, numbers hang on the record alone."""
    for words, folder in (([*given, *extra], config_dir), (extra, config_dir)):
        with suppress(UserError):
            return load_run(words, folder, composer)
    return load_run(extra)


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
