"""``gdo evaluate``: measure a finished run, the base model, or a checkpoint, outside a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from gdo_cli.config.build import load_run
from gdo_cli.config.options import options
from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.evaluator import Suite
from gdo_cli.evaluation.run_data import read_material, warn_of_sample
from gdo_cli.experiment.reopen import rebuild, require_same_rows
from gdo_cli.experiment.weights import load_trained
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.device import compute_dtype, hold_weights, pick_device
from gdo_cli.lm.tokens import Encoder, end_ids
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import require_one_of
from gdo_cli.support.progress import Reporter


def evaluation_config(
    run: RunResult | None,
    overrides: list[str],
    probes: list[str] | None,
    items: int | None,
    task: bool,
    config_dir: Path | None,
) -> RunConfig:
    """What to measure and on what: a run's own configuration, or that of the overrides.

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


def measure(config: RunConfig, run: RunResult | None) -> dict[str, float]:
    """Metrics of the trained weights of a run, or of the untouched model."""
    warn_of_sample(config)
    material = read_material(config)
    if run:
        extra = [word for word in config.overrides if word not in run.record["overrides"]]
        require_same_rows(run, material.provenance, extra)
    loaded = config.model.load()
    model = load_trained(loaded.model, config.method, run) if run else loaded.model
    device = pick_device()
    dtype = compute_dtype(config.train.precision, device)
    hold_weights(model, dtype)  # before freezing: what was trained stays in fp32, as it was measured
    model.requires_grad_(False)
    with torch.no_grad(), Reporter("evaluate", 1) as reporter:
        suite = Suite(config, material, Encoder.of(loaded.tokenizer, end_ids(loaded.model)))
        lm = AnswerLM(model.to(device), dtype)
        return suite.evaluate(lm, "test", reporter.advance).metrics
