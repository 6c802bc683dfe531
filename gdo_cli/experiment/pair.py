"""The base model of a run and the run's own, in one process."""

from __future__ import annotations

from typing import Any

from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.base_cache import base_facts
from gdo_cli.evaluation.run_data import warn_of_sample
from gdo_cli.experiment.weights import kept_weights, load_trained
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.lm.device import compute_dtype, describe_machine, hold_weights, pick_device
from gdo_cli.lm.tokens import Encoder, end_ids
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import note
from gdo_cli.support.errors import UserError
from gdo_cli.support.provenance import code_state, versions


def analysed(
    run: RunResult, kind: str, asked: dict[str, Any], force: bool, *beside: str
) -> dict[str, Any] | None:
    """What ``gdo analyze`` found of the run before, with the same options; None if it is to be done now.

    Args:
        asked: the options, as they are kept in the analysis.
        force: do it in any case.
        beside: files that belong to it; without them it is done again.
    Raises:
        UserError: it was done with other options, or it is to be done and the folder cannot be written.
    """
    folder = run.path / "analysis"
    done = None if force else run.analysis(kind)
    before = asked if done is None else done.get("options", {})
    if before != asked:
        other = ", ".join(f"{name}={before.get(name)}" for name in asked if before.get(name) != asked[name])
        raise UserError(f"{folder / kind}.json was made with {other}; --force puts a new one in its place")
    if done is not None and all((folder / name).is_file() for name in beside):
        note(f"already done: {folder / kind}.json")
        return done
    run.analysis_folder()  # better refused now than after the measuring
    return None


class Pair:
    """The base, and then the tuned model: the weights are loaded once and changed in place, so
    :meth:`tuned` ends what :meth:`base` gave.

    Attributes:
        layers: the base's own decoder layers. They stay these objects when a method changes what is
            inside them or puts blocks in between.
    """

    def __init__(self, run: RunResult, config: RunConfig) -> None:
        """
        Raises:
            UserError: the run's weights were not kept, or its data or model cannot be had.
        """
        if config.method.trains:
            kept_weights(run)  # before anything slow
        self.run = run
        self.config = config
        warn_of_sample(self.config)
        self.device = pick_device()
        self.dtype = compute_dtype(config.train.precision, self.device)
        self._loaded = config.model.load()
        self.encoder = Encoder.of(self._loaded.tokenizer, end_ids(self._loaded.model))
        try:
            self.layers = list(find_decoder(self._loaded.model).layers)
        except ValueError as error:
            raise UserError(f"{run.title}: {error}") from error
        self.facts = base_facts(self._loaded.provenance, self.dtype, self.device)

    def base(self) -> AnswerLM:
        """The untouched model."""
        self._loaded.model.requires_grad_(False)
        return self._ready(self._loaded.model)

    def tuned(self) -> AnswerLM:
        """The model as it was at the end of the run."""
        return self._ready(load_trained(self._loaded.model, self.config.method, self.run))

    def _ready(self, model: Any) -> AnswerLM:
        hold_weights(model, self.dtype)  # before freezing: what was trained stays in fp32, as it was measured
        model.requires_grad_(False)
        lm = AnswerLM(model.to(self.device), self.dtype)
        lm.eval()
        return lm

    def record(self, data: dict[str, Any]) -> dict[str, Any]:
        """What every analysis says of itself."""
        return {
            "run_name": self.run.title,
            "data": data,
            "precision": str(self.dtype).removeprefix("torch."),
            "machine": describe_machine(self.device),
            "versions": versions(),
            "code": code_state(),
        }
