"""One run, read top to bottom: read, load, measure, grow, check, train, measure, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from gdo_cli.config.run_config import RunConfig, StopConfig
from gdo_cli.evaluation.base_cache import base_evaluation
from gdo_cli.evaluation.evaluator import Evaluation
from gdo_cli.evaluation.run_data import changed_splits
from gdo_cli.evaluation.untouched import counted
from gdo_cli.experiment import attempt
from gdo_cli.experiment.checkpoints import CheckpointManager
from gdo_cli.experiment.layers import choose_layers
from gdo_cli.experiment.plan import why_not
from gdo_cli.experiment.preparation import prepare_model
from gdo_cli.experiment.reopen import Opened, require_same_rows
from gdo_cli.experiment.selection import Selection
from gdo_cli.experiment.tracking import Mirror
from gdo_cli.experiment.weights import check_method, save_trained
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.compiling import compiled
from gdo_cli.lm.device import peak_memory, reset_peak_memory
from gdo_cli.methods.parameters import describe_parameters
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import ChosenLayers, RunRecord, RunResult
from gdo_cli.support.console import Reporter, note, warn
from gdo_cli.support.errors import RunFailed, UserError
from gdo_cli.support.identity import identity
from gdo_cli.support.provenance import code_sha256
from gdo_cli.support.signals import Stop, Stopped, stoppable
from gdo_cli.training.distributed import is_rank_zero, max_over_ranks, on_rank_zero, unsharded, world_size
from gdo_cli.training.loop import Step, train
from gdo_cli.training.penalties import Penalty

SMALLER_BATCH = (
    "lower train.batch_size, and raise train.gradient_accumulation_steps by the same factor, or lower "
    "train.max_length, or set train.gradient_checkpointing=true; on several cards, train.shard=true"
)
SMALLER_EVALUATION = "lower evaluation.token_budget"
Watch = Callable[[int, float], None]
LOCAL = ("results_dir", "data.dir", "wandb")  # overrides that say where, not what


def run(config: RunConfig, force: bool = False, watch: Watch | None = None) -> RunResult:
    """Do all that happens in a run, in order; return at once if it is done already.

    Args:
        watch: told after every evaluation the step and the task's score, the higher the better; may raise
            RunFailed to end the run.
    Raises:
        UserError: data or weights that cannot be had, or an impossible choice of method or layers.
        RunFailed: growth changed the function, or training diverged.
    """
    config = attempt.init_distributed(config)
    folder = RunFolder(config.path)
    if not force and (finished := on_rank_zero(folder.load)) is not None:
        note(f"already done: {finished.path}")
        for role in changed_splits(config.task.dataset, config.data, finished.record.data):
            warn(f"the {role} data have changed since the run was made; --force makes it again")
        on_rank_zero(folder.tidy)
        return finished
    source = check_method(config)
    if reason := why_not(config):
        raise UserError(reason)
    with attempt.lock_on_rank_zero(folder), stoppable() as stop:
        if not force and (finished := on_rank_zero(folder.load)) is not None:
            return finished  # another process finished it while this one waited
        opened = Opened(config)
        with attempt.local_rank_zero_first():
            data = opened.data
            if source is not None and source.name["task"] == config.name["task"]:
                require_same_rows(source, data.provenance)
            base = opened.loaded.model
        if config.model.shape(config.name["model"]) is None and (reason := why_not(config, base)):
            raise UserError(reason)
        layers = choose_layers(config, base, run)
        if force:
            on_rank_zero(folder.clear)
        started = _Run(opened, folder, layers, stop, watch)
        with attempt.marked(folder, started.where):
            return started.complete()


class _Run:
    """The state of a run between its stages."""

    def __init__(
        self, opened: Opened, folder: RunFolder, layers: ChosenLayers, stop: Stop, watch: Watch | None
    ) -> None:
        self.config, self.opened, self.folder = opened.config, opened, folder
        self.layers, self.stop, self.watch = layers, stop, watch
        self.stage = "preparing"
        self.began = time.perf_counter()
        self.record = opened.record()  # now: the checkout may change while the run goes on
        self.record["machine"] |= {"processes": world_size()}
        self.evaluator = opened.evaluator()
        self.rows = dict(self.evaluator.provenance)  # as read: what evaluations add hangs on what is cached
        steps = self.config.train.total_steps(len(self.evaluator.train))
        self.total_steps = steps if self.config.method.trains else 0
        self.selection = Selection(self.config, folder)
        self.so_far: Any = {"step": 0, "tokens": 0, "train_seconds": 0.0, "seconds": 0.0, "peak": 0}
        reset_peak_memory(opened.device)

    def complete(self) -> RunResult:
        config = self.config
        torch.manual_seed(config.seed)
        lm, self.updates, self.parameters = prepare_model(
            self.opened, self.evaluator, self.layers.indices, self.see_base
        )
        note(describe_parameters(config.method.label, self.parameters))
        with (
            Mirror(config, self.folder.path) as self.mirror,
            Reporter(config.name["method"], self.total_steps) as self.reporter,
        ):
            penalty = config.method.penalty(lm, self.evaluator.replay, config.seed)
            with self.stop.deferred():
                self.begin(lm)
                self.evaluate_if_due(lm)
                for step in self.steps(lm, penalty):
                    self.log(step)
                    self.stop.asked = max_over_ranks(self.stop.asked or 0) or None
                    self.checkpoints.after(step.step, self.stop.asked is not None)
                    self.stop.check()
                    self.evaluate_if_due(lm)
                    if self.ends_early():
                        break
                with unsharded(lm):
                    return on_rank_zero(lambda: self.finish(lm))

    def begin(self, lm: AnswerLM) -> None:
        """Start a new folder, or take up what a checkpoint holds."""

        def tensors() -> dict[str, torch.Tensor]:
            trained = {f"weight.{name}": p for name, p in lm.model.named_parameters() if p.requires_grad}
            return trained | self.updates.state()

        every = self.config.train.checkpoint_every
        self.checkpoints = CheckpointManager(self.folder, self.facts(), every, tensors, self.state)
        if found := self.checkpoints.find():
            on_rank_zero(self.folder.prepare_resume)
            self.so_far = found["so_far"]
            self.selection.resume(found["selection"])
            self.evaluator.remember_items(self.folder.untouched())
            note(f"going on from step {self.so_far['step']} of {self.total_steps}")
            if found["machine"] != self.record["machine"]:
                warn("begun on another machine: the numbers may differ in their last digits")
        else:
            on_rank_zero(lambda: self.folder.start({"name": self.config.name} | identity(self.config)))

    def facts(self) -> dict[str, Any]:
        """Return what decides the numbers of the steps to come; a checkpoint made under others is not
        used."""
        settings = asdict(self.config.train) | asdict(self.config.evaluation)
        del settings["checkpoint_every"], settings["shard"]
        return {
            "versions": self.record["versions"],
            "code": code_sha256(),
            "configuration": identity(self.config),
            "settings": settings,
            "precision": str(self.opened.dtype),
            "weights": self.opened.facts["weights"],
            "data": self.rows,
            "layers": self.layers.chosen,
        }

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside tensors, to be found by :meth:`begin`."""
        selection = self.selection.state()
        return {"so_far": self.spent(), "machine": self.record["machine"], "selection": selection}

    def spent(self) -> dict[str, Any]:
        """Steps, tokens, time and memory of the run, all of its parts together."""
        seconds = self.so_far["seconds"] + time.perf_counter() - self.began
        peak = max(self.so_far["peak"], peak_memory(self.opened.device))
        return self.so_far | {"seconds": seconds, "peak": peak}

    def where(self) -> str:
        """Return how far the run is, for messages: ``evaluating after step 50 of 300``."""
        return f"{self.stage} after step {self.so_far['step']} of {self.total_steps}"

    def next_step(self) -> str:
        longest = max(len(example) for example in self.evaluator.train) + 1
        batch = f"{self.config.train.batch_size} examples of up to {longest} tokens"
        return f"step {self.so_far['step'] + 1} of {self.total_steps} ({batch})"

    def steps(self, lm: AnswerLM, penalty: Penalty | None) -> Iterator[Step]:
        if not self.config.method.trains or self.selection.stopped:
            return
        self.stage = "training"
        config, seed, eos_id = self.config.train, self.config.seed, self.opened.encoder.eos_id
        attach, watch = self.checkpoints.attach, self.updates.add_gradients
        # Weights that come and go (FSDP2) would be compiled again each time.
        how = "never" if config.shard and world_size() > 1 else config.compile
        with (
            attempt.enough_memory(self.next_step, SMALLER_BATCH),
            compiled(lm.model, how, self.total_steps),
        ):
            yield from train(lm, self.evaluator.train, config, seed, eos_id, penalty, attach, watch)

    def see_base(self, lm: AnswerLM) -> None:
        """Measure the base where step 0 will not: what is kept of it is told item by item."""
        asked = counted(self.config.probe) or self.config.keep.tolerances
        if asked and not self.config.method.starts_as_base():
            measure = partial(self.evaluator.evaluate, lm)
            found = on_rank_zero(lambda: base_evaluation(self.evaluator, self.opened.facts, measure))
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
            with attempt.enough_memory(self.where, SMALLER_EVALUATION), unsharded(lm):
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
        evaluation = base_evaluation(self.evaluator, self.opened.facts, measure) if untouched else measure()
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
        if step:
            self.folder.log({"kind": "moved", "step": step, "kinds": self.updates.by_kind()})
        for row in self.updates.ranks() if step else ():
            self.folder.log({"kind": "rank", "step": step} | row)
        self.folder.save_predictions(evaluation.predictions)
        self.mirror.log(step, evaluation.metrics)
        if step:
            score = self.selection.see(step, evaluation, self.evaluator.untouched, lm.model)
            if self.watch:
                self.watch(step, score)

    def ends_early(self) -> bool:
        """Return whether training ends before its last step, on every process at once."""
        if self.config.stop == StopConfig():
            return False
        return bool(max_over_ranks(int(self.selection.stopped is not None)))

    def advance(self, part: str, n: int, total: int) -> None:
        """Progress of an evaluation, which may be stopped here."""
        self.stop.check()
        self.reporter.advance(part, n, total)

    def final(self, lm: AnswerLM) -> Evaluation:
        """Measure the task on test data; the probes are those of the last step, which are the same items."""
        self.stage = "evaluating on test data"
        with attempt.enough_memory(self.where, SMALLER_EVALUATION):
            test = self.evaluator.evaluate_task(lm, "test", self.advance)
        probes = {key: value for key, value in self.last.metrics.items() if not key.startswith("task/")}
        self.reporter.evaluation("final", test.metrics)
        rows = [row for row in self.last.predictions if not row["part"].startswith("task/")]
        measured = {
            key.partition("/")[0] for key, value in (test.metrics | probes).items() if math.isfinite(value)
        }
        asked = [*(["task"] if self.config.evaluation.final_items != 0 else []), *self.config.probe]
        if missing := [part for part in asked if part not in measured]:
            raise RunFailed(f"{self.where()}: no score of {', '.join(missing)}")
        return Evaluation(test.metrics | probes, test.predictions + rows)

    def finish(self, lm: AnswerLM) -> RunResult:
        """Measure for the last time, and write the run's predictions, weights and, last, its record."""
        config = self.config
        if self.selection.stopped:
            note(f"training ends after step {self.so_far['step']}: {self.selection.stopped}")
        if self.selection.restore(self.so_far["step"], lm.model) or self.selection.stopped:
            lm.weights_changed()
            # Everything, of these weights: in between, not every probe is asked.
            self.last = self.evaluator.evaluate(lm, "validation", self.advance)
            self.last.metrics |= self.evaluator.untouched.retention(self.last.predictions)
        final = self.final(lm)
        self.stage = "writing results"
        self.folder.save_predictions(final.predictions)
        checksum = save_trained(lm.model, self.folder.path) if config.save_weights else None
        spent = self.spent()
        record = RunRecord(
            id=config.id,
            seed=config.seed,
            method_label=config.method.label,
            name=config.name,
            overrides=[o for o in config.overrides if not o.startswith(LOCAL)],
            config=identity(config),
            final=final.metrics,
            steps=self.so_far["step"],
            layers=self.layers,
            parameters=self.parameters,
            updates=self.updates.norms(),
            weights=self.opened.loaded.provenance,
            wall_seconds=round(spent["seconds"], 1),
            train_seconds=round(spent["train_seconds"], 1),
            tokens_per_second=round(spent["tokens"] / max(spent["train_seconds"], 1e-9)),
            peak_memory_bytes=spent["peak"],
            keep=vars(config.keep),
            selected=self.selection.record(),
            trained_sha256=checksum,
            **self.record,
        )
        return self.folder.seal(record)
