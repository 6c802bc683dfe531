"""``gdo evaluate``: measure a finished run, the base model, or a checkpoint, outside a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gdo_cli.config.build import load_run, rebuild
from gdo_cli.config.options import options
from gdo_cli.config.run_config import RunConfig
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import require_one_of


def evaluation_config(
    run: RunResult | None,
    overrides: list[str],
    probes: list[str] | None,
    items: int | None,
    task: bool,
    config_dir: Path | None,
) -> RunConfig:
    """Return what to measure and on what: a run's own configuration, or that of the overrides.

    Raises:
        UserError: no such probe, or overrides that do not compose.
    """
    chosen = probes or ["winogrande"]
    for probe in chosen:
        require_one_of("--probe", probe, options("probe", config_dir))
    asked = [f"probe=[{','.join(chosen)}]", *(f"probe.{p}.items={items}" for p in chosen if items)]
    words = [*overrides, *asked]
    config = rebuild(run, config_dir, words) if run else load_run(words, config_dir)
    if not task:
        config = replace(config, evaluation=replace(config.evaluation, final_items=0))
    return config
