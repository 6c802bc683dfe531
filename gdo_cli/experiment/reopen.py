"""The rows and models of a configuration, and those of a finished run. Nothing else opens a run's model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.base_cache import base_facts
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.evaluation.run_data import Rehearsed, RunData, read_data, sampled_parts
from gdo_cli.experiment.weights import kept_weights, load_trained
from gdo_cli.lm.agreement import check_forward
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder, max_positions
from gdo_cli.lm.device import compute_dtype, describe_machine, hold_weights, pick_device
from gdo_cli.lm.tokens import Encoded, Encoder, Query, end_ids
from gdo_cli.methods.regularized import Replay
from gdo_cli.models.loading import Loaded
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import Reporter, warn
from gdo_cli.support.errors import UserError, first_line, require
from gdo_cli.support.provenance import code_state, versions

_SENTENCES = (Query("The capital of France is", " Paris"), Query("Water boils at", " 100 degrees."))


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
        self._checked = False
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
        loaded = self.config.model.load()
        if self.run is not None:
            require_same_weights(self.run, loaded.provenance, self.overrides)
        return loaded

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
        evaluator = build_evaluator(self.config, self.data, self.encoder)
        if self.encoder.ignores_case:
            model = self.config.name["model"]
            warn(f"model={model}: its tokenizer knows no capitals, so case counts for nothing in answers")
        longest, most = self.config.train.max_length, max_positions(self.loaded.model)
        require(longest <= most, f"train.max_length={longest}: the model has {most} positions; lower it")
        task = self.config.task
        answer = int(getattr(task, "max_new_tokens", 0)) if task.metric.generates else 0
        for role, pairs in evaluator.splits.items():
            self.require_fit(
                [q for _, q in pairs], f"a {role} item of the task, its answer included,", answer
            )
        for name, items in evaluator.probes.items():
            self.require_fit([q for item in items for q in item.queries], f"an item of probe {name}")
        return evaluator

    def require_fit(self, queries: Sequence[Encoded], what: str, more: int = 0) -> None:
        """Raise a UserError if any has tokens that the embedding has not, or more than there are positions.

        Args:
            more: tokens that are generated behind the context.
        """
        model = self.loaded.model
        rows, most = model.get_input_embeddings().weight.shape[0], max_positions(model)
        for query in queries:
            used, n = [*query.context, *query.continuation], max(len(query), len(query.context) + more)
            require(
                max(used) < rows, f"{what} has token {max(used)}, which the embedding ({rows} rows) has not"
            )
            require(n <= most, f"{what} has {n} tokens, more than the model's {most} positions; shorten it")

    def base(self) -> AnswerLM:
        """Return the untouched model."""
        return self._ready(self.loaded.model.requires_grad_(False))

    def tuned(self) -> AnswerLM:
        """Return the model as it was at the end of the run."""
        return self._ready(self.trained_model())

    def trained_model(self) -> Any:
        """Return the same as a model of transformers' own, weights as they were kept."""
        assert self.run is not None
        return load_trained(self.loaded.model, self.config.method, self.run)

    def adapted(self, adapter: Path) -> AnswerLM:
        """Return the base with somebody's PEFT adapter.

        Raises:
            UserError: it is not in safetensors, or does not fit the base.
        """
        from peft import PeftModel

        import gdo_cli.growth  # noqa: F401 - PEFT then knows grown adapters

        require(
            (adapter / "adapter_model.safetensors").is_file(),
            f"{adapter}: no adapter_model.safetensors; other formats are not read, because loading them "
            "can run code",
        )
        try:
            model = PeftModel.from_pretrained(self.loaded.model, adapter)
        except Exception as error:  # what is wrong with files breaks anywhere
            raise UserError(f"{adapter}: does not fit the base model: {first_line(error)}") from error
        return self._ready(model)

    def _ready(self, model: Any) -> AnswerLM:
        hold_weights(model, self.dtype)  # before freezing: what was trained stays in fp32, as it was measured
        lm = AnswerLM(model.requires_grad_(False).to(self.device), self.dtype)
        lm.eval()
        if not self._checked:  # on every path: nothing measures or trains a model that gdo runs otherwise
            check_forward(lm, self.encoder.many(list(_SENTENCES)))
            self._checked = True
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


def read_run_data(config: RunConfig) -> RunData:
    """Read every split that the run needs, and say so if it is the bundled sample's.

    Raises:
        UserError: missing data, or more unusable rows than allowed.
    """
    task, probes, method = config.task, config.probe, config.method
    replay = None
    if isinstance(method, Replay):
        replay = Rehearsed(method.dataset, method.min_characters, method.control_tokens)
    if parts := sampled_parts(task, probes, config.data, replay):
        warn(
            f"data=sample: the bundled sample stands for {', '.join(parts)}; it is made for trying things "
            "out, not for results (real rows: data.dir=FOLDER, or data=hub)"
        )
    return read_data(task, probes, config.data, config.evaluation, method.shots, replay)


def build_evaluator(config: RunConfig, data: RunData, encoder: Encoder) -> Evaluator:
    """Return what measures a model on the run's rows.

    Raises:
        UserError: too many training examples are longer than allowed.
    """
    return Evaluator(config.task, config.probe, data, encoder, config.evaluation, config.train.max_length)


def require_same_weights(run: RunResult, loaded: dict[str, Any], extra: Sequence[str] = ()) -> None:
    """Raise a UserError unless the base that was loaded from a folder or the hub is that of the run.

    Args:
        loaded: where the weights came from, as ``weights`` in a run's record.
        extra: overrides of the command; where they name another model, that is what is asked for.
    """
    before = run.record.weights
    if loaded["source"] not in ("folder", "hub") or any(word.startswith("model") for word in extra):
        return
    for key, what in (("sha256", "weights"), ("config_sha256", "config.json")):
        if before.get(key) and before[key] != loaded[key]:
            raise UserError(
                f"{run.title}: {loaded['path']} holds another {what} than the run was made from (checksum "
                f"{loaded[key][:12]}… instead of {before[key][:12]}…); put back the model that it was"
            )


def require_same_rows(run: RunResult, data: dict[str, Any], extra: Sequence[str] = ()) -> None:
    """Raise a UserError unless the rows that were read are those that the run was made with.

    Args:
        data: the record of what was read, as ``data`` in a run's record.
        extra: overrides of the command; where they name other data, other rows are what is asked for.
    """
    keys = [word.partition("=")[0] for word in extra]
    if any(key in ("data", "task", "task.path") or ".dataset" in key for key in keys):
        return
    for part, now in data.items():
        before = run.record.data.get(part)
        old, new = (of.get("sha256") if isinstance(of, dict) else None for of in (before, now))
        if old and new and old != new:
            raise UserError(
                f"{run.title}: the {part} rows are not those that the run was made with (checksum "
                f"{new[:12]}… instead of {old[:12]}…); name their place (data.dir=FOLDER), or other data "
                "on purpose (data=…)"
            )
