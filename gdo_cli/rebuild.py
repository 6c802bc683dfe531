"""A finished run's configuration, composed again, for commands that work on its model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gdo_cli.config import build_method, load_run, quoted
from gdo_cli.data import resolve
from gdo_cli.errors import UserError
from gdo_cli.methods import Method
from gdo_cli.results import RunResult
from gdo_cli.schema import RunConfig, identity


def rebuild(run: RunResult, config_dir: Path | None, extra: list[str] | None = None) -> RunConfig:
    """What the run was started with; ``extra`` overrides win, and may choose other probes.

    Raises:
        UserError: the configuration files have changed in what makes the model.
    """
    extra = extra or []
    other_probes = any(word.startswith("probe=") for word in extra)
    recorded = [str(word) for word in run.record["overrides"]]
    kept = [word for word in recorded if not (other_probes and word.startswith("probe"))]
    *_, results = run.path.resolve().parents[:5]  # a folder that was moved may lie less deep
    config = load_run([*kept, f"results_dir={quoted(str(results))}", *extra], config_dir)
    for part in ("model", "method"):
        if identity(getattr(config, part)) != run.record["config"][part]:
            raise UserError(f"{run.title}: conf/{part} has changed since; the run cannot be rebuilt from it")
    return replace(config, data=resolve(config.data))


def recorded_method(run: RunResult) -> Method:
    """The run's method with the settings that it ran with, whatever has become of its YAML file.

    Raises:
        UserError: there is no such method any more.
    """
    return build_method(identity(run.record["config"]["method"]))  # OmegaConf takes plain dictionaries alone
