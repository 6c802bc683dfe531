"""A finished run's configuration again, for commands that work on its model."""

from __future__ import annotations

from pathlib import Path

from gdo_cli.config.options import quoted
from gdo_cli.config.recorded import build_method, load_recorded
from gdo_cli.config.run_config import RunConfig
from gdo_cli.methods.base import Method
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity


def rebuild(run: RunResult, config_dir: Path | None, extra: list[str] | None = None) -> RunConfig:
    """Return what the run was made with, from its record; ``extra`` overrides win, other probes among them.

    Raises:
        UserError: the run holds what this version does not know, or an override that does not fit.
    """
    extra = extra or []
    other_probes = any(word.startswith("probe=") for word in extra)
    recorded = [str(word) for word in run.record["overrides"]]
    kept = [word for word in recorded if not (other_probes and word.startswith("probe"))]
    *_, results = run.path.resolve().parents[:5]  # a folder that was moved may lie less deep
    try:
        content = identity(run.record["config"])  # OmegaConf takes plain dictionaries alone
        return load_recorded(
            content, dict(run.name), kept, [f"results_dir={quoted(str(results))}", *extra], config_dir
        )
    except UserError as error:
        raise UserError(f"{run.title}: {error}") from error


def recorded_method(run: RunResult) -> Method:
    """The run's method with the settings that it ran with, whatever has become of its YAML file.

    Raises:
        UserError: there is no such method any more.
    """
    return build_method(identity(run.record["config"]["method"]))  # OmegaConf takes plain dictionaries alone


def require_same_rows(run: RunResult, data: dict[str, object], extra: list[str]) -> None:
    """Raise a UserError unless the rows that were read are those that the run was made with.

    Args:
        data: the record of what was read, as ``data`` in a run's record.
        extra: overrides of the command; where they name other data, other rows are what is asked for.
    """
    if any(word.startswith(("data=", "task", "probe.")) and "items" not in word for word in extra):
        return
    before = run.record.get("data", {})
    for part, now in data.items():
        if not (isinstance(now, dict) and isinstance(before.get(part), dict)):
            continue
        old, new = before[part].get("sha256"), now.get("sha256")
        if old and new and old != new:
            raise UserError(
                f"{run.title}: the {part} rows are not those that the run was made with (checksum "
                f"{new[:12]}… instead of {old[:12]}…); name their place (data.dir=FOLDER), or other data "
                "on purpose (data=…)"
            )
