"""One run, read top to bottom: read, load, measure, grow, check, train, measure, save."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.base_cache import base_evaluation, base_facts
from gdo_cli.evaluation.evaluator import Evaluation
from gdo_cli.evaluation.run_data import RunData, changed_splits
from gdo_cli.evaluation.untouched import counted
from gdo_cli.experiment.checkpoints import CheckpointManager, trained
from gdo_cli.experiment.failures import enough_memory, marked
from gdo_cli.experiment.layers import Choice, choose_layers
from gdo_cli.experiment.preparation import prepare_model
from gdo_cli.experiment.processes import init_distributed, local_rank_zero_first, lock_on_rank_zero
from gdo_cli.experiment.reading import build_evaluator, read_run_data, require_same_rows
from gdo_cli.experiment.source import check_method, find_source
from gdo_cli.experiment.tracking import Mirror
from gdo_cli.experiment.weights import save_trained
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.compiling import compiled
from gdo_cli.lm.device import (
    compute_dtype,
    describe_machine,
    peak_memory,
    pick_device,
    reset_peak_memory,
)
from gdo_cli.lm.tokens import Encoder, end_ids
from gdo_cli.methods.parameters import describe_parameters
from gdo_cli.models.loading import Loaded
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import RunResult
from gdo_cli.runs.run_record import RunRecord
from gdo_cli.support.console import note, warn
from gdo_cli.support.errors import RunFailed
from gdo_cli.support.identity import identity
from gdo_cli.support.progress import Reporter
from gdo_cli.support.provenance import code_sha256, code_state, versions
from gdo_cli.support.signals import Stop, Stopped, stoppable
from gdo_cli.training.distributed import is_rank_zero, max_over_ranks, on_rank_zero, unsharded, world_size
from gdo_cli.training.loop import Step, train
from gdo_cli.training.penalties import Penalty

SMALLER_BATCH = (
    "lower train.batch_size, and raise train.gradient_accumulation_steps by the same factor, or lower "
    "train.max_length"
)
SMALLER_EVALUATION = "lower evaluation.token_budget"
LOCAL = ("results_dir", "data.dir", "wandb")  # overrides that say where, not what


def run(config: RunConfig, force: bool = False) -> RunResult:
    """Do all that happens in a run, in order; return at once if it is done already.

    Raises:
        UserError: data or weights that cannot be had, or an impossible choice of method or layers.
        RunFailed: growth changed the function, or training diverged.
    """
    config = init_distributed(config)
    folder = RunFolder(config.path)
    if not force and (finished := on_rank_zero(folder.load)) is not None:
        note(f"already done: {finished.path}")
        for role in changed_splits(config.task.dataset, config.data, finished.record.data):
            warn(f"the {role} data have changed since the run was made; --force makes it again")
        on_rank_zero(folder.tidy)
        return finished
    check_method(config)
    with lock_on_rank_zero(folder), stoppable() as stop:
        if not force and (finished := on_rank_zero(folder.load)) is not None:
            return finished  # another process finished it while this one waited
        with local_rank_zero_first():
            data = read_run_data(config)
            source = find_source(config)
            if source is not None and source.name["task"] == config.name["task"]:
                require_same_rows(source, data.provenance)
            loaded = config.model.load()
        choice = choose_layers(config, loaded.model, run)
        if force:
            on_rank_zero(folder.clear)
        started = _Run(config, folder, data, loaded, choice, stop)
        with marked(folder, started.where):
            return started.complete()


class _Run:
    """The state of a run between its stages."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        data: RunData,
        loaded: Loaded,
        choice: Choice,
        stop: Stop,
    ) -> None:
        self.config = config
        self.stop = stop
        self.stage = "preparing"
        self.choice = choice
        self.folder = folder
        self.began = time.perf_counter()
        self.code = code_state()  # now: the checkout may change while the run goes on
        self.device = pick_device()
        self.dtype = compute_dtype(config.train.precision, self.device)
        self.weights = loaded.provenance
        self.encoder = Encoder.of(loaded.tokenizer, end_ids(loaded.model))
        self.evaluator = build_evaluator(config, data, self.encoder)
        self.base = loaded.model
        self.checkpoints = CheckpointManager(folder, self.facts(), config.train.checkpoint_every)
        self.total_steps = config.train.total_steps(len(self.evaluator.train)) if config.method.trains else 0
        self.so_far: dict[str, Any] = {
            "step": 0,
            "tokens": 0,
            "train_seconds": 0.0,
            "seconds": 0.0,
            "peak": 0,
        }
        reset_peak_memory(self.device)

    def complete(self) -> RunResult:
        torch.manual_seed(self.config.seed)
        lm = self.prepared()
        note(describe_parameters(self.config.method.label, self.parameters))
        with (
            Mirror(self.config, self.folder.path) as mirror,
            Reporter(self.config.name["method"], self.total_steps) as reporter,
        ):
            self.mirror, self.reporter = mirror, reporter
            penalty = self.penalty(lm)
            with self.stop.deferred():
                self.begin(lm)
                self.evaluate_if_due(lm)
                for step in self.steps(lm, penalty):
                    self.log(step)
                    self.stop.asked = max_over_ranks(self.stop.asked or 0) or None
                    self.checkpoints.after(step.step, self.stop.asked is not None)
                    self.stop.check()
                    self.evaluate_if_due(lm)
                with unsharded(lm):
                    return on_rank_zero(lambda: self.finish(lm))

    def finish(self, lm: AnswerLM) -> RunResult:
        final = self.final(lm)
        self.stage = "writing results"
        self.folder.save_predictions(final.predictions)
        checksum = save_trained(lm.model, self.folder.path) if self.config.save_weights else None
        return self.folder.seal(self.record(final, checksum))

    def where(self) -> str:
        """Return how far the run is, for messages: ``evaluating after step 50 of 300``."""
        return f"{self.stage} after step {self.so_far['step']} of {self.total_steps}"

    def next_step(self) -> str:
        longest = max(len(example) for example in self.evaluator.train) + 1
        batch = f"{self.config.train.batch_size} examples of up to {longest} tokens"
        return f"step {self.so_far['step'] + 1} of {self.total_steps} ({batch})"

    def begin(self, lm: AnswerLM) -> None:
        """Start a new folder, or take up what a checkpoint holds."""
        if found := self.checkpoints.find():
            on_rank_zero(self.folder.prepare_resume)
            self.so_far = found["so_far"]
            self.evaluator.remember_items(self.folder.untouched())
            note(f"going on from step {self.so_far['step']} of {self.total_steps}")
            if found["machine"] != self.machine():
                warn("begun on another machine: the numbers may differ in their last digits")
        else:
            on_rank_zero(lambda: self.folder.start({"name": self.config.name} | identity(self.config)))
        self.checkpoints.follow(lambda: trained(lm.model) | self.updates.state(), self.state)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside tensors, to be found by :meth:`begin`."""
        return {"so_far": self.spent(), "machine": self.machine()}

    def machine(self) -> dict[str, Any]:
        return describe_machine(self.device) | {"processes": world_size()}

    def spent(self) -> dict[str, Any]:
        """Steps, tokens, time and memory of the run, all of its parts together."""
        seconds = self.so_far["seconds"] + time.perf_counter() - self.began
        return self.so_far | {
            "seconds": seconds,
            "peak": max(self.so_far["peak"], peak_memory(self.device)),
        }

    def penalty(self, lm: AnswerLM) -> Penalty | None:
        method, replay = self.config.method, self.evaluator.replay
        return method.penalty(lm, replay, self.config.seed) if method.trains else None

    def steps(self, lm: AnswerLM, penalty: Penalty | None) -> Iterator[Step]:
        config, eos_id = self.config, self.encoder.eos_id
        if not config.method.trains:
            return
        self.stage = "training"
        with (
            enough_memory(self.next_step, SMALLER_BATCH),
            compiled(lm.model, self.compile(), self.total_steps),
        ):
            yield from train(
                lm,
                self.evaluator.train,
                config.train,
                config.seed,
                eos_id,
                penalty,
                self.checkpoints.attach,
                self.updates.add_gradients,
            )

    def compile(self) -> str:
        """Return ``train.compile``; weights that come and go (FSDP2) would be compiled again each time."""
        train = self.config.train
        return "never" if train.shard and world_size() > 1 else train.compile

    def prepared(self) -> AnswerLM:
        """Return the model that trains, checked to compute what the base does."""
        ready = prepare_model(
            self.config, self.base, self.choice.layers, self.evaluator, self.device, self.dtype, self.see_base
        )
        self.updates, self.parameters = ready.updates, ready.parameters
        return ready.lm

    def see_base(self, lm: AnswerLM) -> None:
        """Measure the base where step 0 will not: what is kept of it is told item by item."""
        if counted(self.config.probe) and not self.config.method.starts_as_base():
            measure = partial(self.evaluator.evaluate, lm)
            found = on_rank_zero(lambda: base_evaluation(self.evaluator, self.base_facts(), measure))
            self.evaluator.remember_items(found.predictions)

    def log(self, step: Step) -> None:
        self.so_far["step"] = step.step
        self.so_far["tokens"] += step.tokens
        self.so_far["train_seconds"] += step.seconds
        if not is_rank_zero():
            return
        self.reporter.step(step.step, step.loss, step.tokens / step.seconds)
        line = {"kind": "train", "step": step.step, "loss": step.loss, "lr": step.lr}
        line |= {"grad_norm": step.grad_norm, "tokens": step.tokens, "seconds": round(step.seconds, 4)}
        line |= {"penalty": step.penalty} if step.penalty else {}
        self.folder.log(line)
        self.mirror.log(step.step, {"train/loss": step.loss, "train/lr": step.lr})

    def evaluate_if_due(self, lm: AnswerLM) -> None:
        step = self.so_far["step"]
        if step % self.config.evaluation.every and step != self.total_steps:
            return
        self.stage = "evaluating"
        try:
            with enough_memory(self.where, SMALLER_EVALUATION), unsharded(lm):
                on_rank_zero(lambda: self.evaluate(lm, step))
        except Stopped:
            self.checkpoints.after(step, stopping=True)
            raise
        self.stage = "training"

    def evaluate(self, lm: AnswerLM, step: int) -> None:
        """Measure on validation data; at step 0 this is the base model's own evaluation."""

        def measure() -> Evaluation:
            between = 0 < step < self.total_steps
            return self.evaluator.evaluate(lm, "validation", self.advance, between)

        untouched = step == 0 and self.config.method.starts_as_base()
        evaluation = base_evaluation(self.evaluator, self.base_facts(), measure) if untouched else measure()
        if untouched:
            self.evaluator.remember_items(evaluation.predictions)
        if step == 0:
            self.folder.save_untouched(self.evaluator.untouched.predictions)
        evaluation.metrics |= self.evaluator.untouched.retention(evaluation.predictions)
        self.last = evaluation
        if not math.isfinite(loss := evaluation.metrics.get("task/loss", 0.0)):
            raise RunFailed(f"{self.where()}: task/loss is {loss}; lower train.lr={self.config.train.lr}")
        self.reporter.evaluation(step, evaluation.metrics)
        self.folder.log({"kind": "evaluation", "step": step} | evaluation.metrics | self.updates.distance())
        for row in self.updates.ranks() if step else ():
            self.folder.log({"kind": "rank", "step": step} | row)
        self.folder.save_predictions(evaluation.predictions)
        self.mirror.log(step, evaluation.metrics)

    def advance(self, part: str, n: int, total: int) -> None:
        """Progress of an evaluation, which may be stopped here."""
        self.stop.check()
        self.reporter.advance(part, n, total)

    def base_facts(self) -> dict[str, Any]:
        return base_facts(self.weights, self.dtype, self.device)

    def final(self, lm: AnswerLM) -> Evaluation:
        """Measure the task on test data; the probes are those of the last step, which are the same items."""
        self.stage = "evaluating on test data"
        with enough_memory(self.where, SMALLER_EVALUATION):
            test = self.evaluator.evaluate_task(lm, "test", self.advance)
        probes = {key: value for key, value in self.last.metrics.items() if not key.startswith("task/")}
        self.reporter.evaluation("final", test.metrics)
        rows = [row for row in self.last.predictions if not row["part"].startswith("task/")]
        return Evaluation(test.metrics | probes, test.predictions + rows)

    def facts(self) -> dict[str, Any]:
        """Return what decides the numbers of the steps to come; a checkpoint made under others is not
        used."""
        settings = asdict(self.config.train) | asdict(self.config.evaluation)
        del settings["checkpoint_every"], settings["shard"]
        return {
            "versions": versions(),
            "code": code_sha256(),
            "configuration": identity(self.config),
            "settings": settings,
            "precision": str(self.dtype),
            "weights": self.weights["sha256"],
            "data": self.evaluator.provenance,
            "layers": self.choice.record.chosen,
        }

    def record(self, final: Evaluation, trained_sha256: str | None) -> RunRecord:
        spent = self.spent()
        return RunRecord(
            id=self.config.id,
            seed=self.config.seed,
            method_label=self.config.method.label,
            name=self.config.name,
            overrides=[o for o in self.config.overrides if not o.startswith(LOCAL)],
            config=identity(self.config),
            final=final.metrics,
            steps=self.total_steps,
            layers=self.choice.record,
            parameters=self.parameters,
            updates=self.updates.norms(),
            data=self.evaluator.provenance,
            weights=self.weights,
            precision=str(self.dtype).removeprefix("torch."),
            wall_seconds=round(spent["seconds"], 1),
            train_seconds=round(spent["train_seconds"], 1),
            tokens_per_second=round(spent["tokens"] / max(spent["train_seconds"], 1e-9)),
            peak_memory_bytes=spent["peak"],
            machine=self.machine(),
            versions=versions(),
            code=self.code,
            trained_sha256=trained_sha256,
        )
