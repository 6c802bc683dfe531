"""Finished runs opened again: configuration, rows and models. Nothing else opens the model of a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gdo_cli.config.compose import Composer
from gdo_cli.config.options import quoted
from gdo_cli.config.recorded import load_recorded
from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.base_cache import base_facts
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.evaluation.run_data import RunData
from gdo_cli.experiment.reading import build_evaluator, read_run_data, require_same_rows
from gdo_cli.experiment.weights import kept_weights, load_trained
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.lm.device import compute_dtype, describe_machine, hold_weights, pick_device
from gdo_cli.lm.tokens import Encoder, end_ids
from gdo_cli.models.loading import Loaded
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity
from gdo_cli.support.progress import Reporter
from gdo_cli.support.provenance import code_state, versions


def rebuild(
    run: RunResult,
    config_dir: Path | None,
    extra: list[str] | None = None,
    composer: Composer | None = None,
) -> RunConfig:
    """Return what the run was made with, from its record; ``extra`` overrides win, other probes among them.

    Raises:
        UserError: the run holds what this version does not know, or an override that does not fit.
    """
    extra = extra or []
    other_probes = any(word.startswith("probe=") for word in extra)
    recorded = [str(word) for word in run.record.overrides]
    kept = [word for word in recorded if not (other_probes and word.startswith("probe"))]
    *_, results = run.path.resolve().parents[:5]  # a folder that was moved may lie less deep
    try:
        content = identity(run.record.config)  # OmegaConf takes plain dictionaries alone
        words = [f"results_dir={quoted(str(results))}", *extra]
        return load_recorded(content, dict(run.name), kept, words, config_dir, composer)
    except UserError as error:
        raise UserError(f"{run.title}: {error}") from error


class Opened:
    """A configuration's rows and models, and those of the run that was made with it, if there is one.

    Rows and weights are had when they are first asked for, the weights once: they are changed in place, so
    :meth:`tuned` ends what :meth:`base` gave.

    Args:
        run: the finished run; None for the untouched model.
        overrides: what the user asks for beside the run's own configuration.
    Raises:
        UserError: the run's weights were not kept.
    """

    def __init__(
        self, config: RunConfig, run: RunResult | None = None, overrides: Sequence[str] = ()
    ) -> None:
        if run is not None and config.method.trains:
            kept_weights(run)  # before anything slow
        self.config = config
        self.run = run
        self.overrides = overrides
        self.device = pick_device()
        self.dtype = compute_dtype(config.train.precision, self.device)

    @cached_property
    def data(self) -> RunData:
        """The rows: those that the run was made with, or none."""
        data = read_run_data(self.config)
        if self.run is not None:
            require_same_rows(self.run, data.provenance, self.overrides)
        return data

    @cached_property
    def loaded(self) -> Loaded:
        return self.config.model.load()

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder.of(self.loaded.tokenizer, end_ids(self.loaded.model))

    @cached_property
    def layers(self) -> list[Any]:
        """The base's own decoder layers. They stay these objects when a method changes what is inside them
        or puts blocks in between."""
        try:
            return list(find_decoder(self.loaded.model).layers)
        except ValueError as error:
            raise UserError(f"{self.config.name['model']}: {error}") from error

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the untouched model's numbers."""
        return base_facts(self.loaded.provenance, self.dtype, self.device)

    def evaluator(self) -> Evaluator:
        return build_evaluator(self.config, self.data, self.encoder)

    def base(self) -> AnswerLM:
        """Return the untouched model."""
        self.loaded.model.requires_grad_(False)
        return self._ready(self.loaded.model)

    def tuned(self) -> AnswerLM:
        """Return the model as it was at the end of the run."""
        return self._ready(self.trained_model())

    def trained_model(self) -> Any:
        """Return the same as a model of transformers' own, weights as they were kept."""
        assert self.run is not None
        return load_trained(self.loaded.model, self.config.method, self.run)

    def _ready(self, model: Any) -> AnswerLM:
        hold_weights(model, self.dtype)  # before freezing: what was trained stays in fp32, as it was measured
        model.requires_grad_(False)
        lm = AnswerLM(model.to(self.device), self.dtype)
        lm.eval()
        return lm

    def record(self) -> dict[str, Any]:
        """Return what is said of how something was measured."""
        return {
            "data": self.data.provenance,
            "precision": str(self.dtype).removeprefix("torch."),
            "machine": describe_machine(self.device),
            "versions": versions(),
            "code": code_state(),
        }


def measure(opened: Opened) -> dict[str, float]:
    """Return the metrics of a run's trained weights, or of the untouched model, on test items.

    Raises:
        UserError: rows that are not those of the run, or weights that cannot be had.
    """
    opened.data  # noqa: B018 - before the weights, which take longer
    evaluator = opened.evaluator()
    lm = opened.tuned() if opened.run else opened.base()
    with Reporter("evaluate", 1) as reporter:
        return evaluator.evaluate(lm, "test", reporter.advance).metrics


def reopen(run: RunResult, config_dir: Path | None = None, overrides: Sequence[str] = ()) -> Opened:
    """Open a finished run.

    Raises:
        UserError: its weights were not kept, or its record holds what this version does not know.
    """
    return Opened(rebuild(run, config_dir, list(overrides)), run, overrides)
