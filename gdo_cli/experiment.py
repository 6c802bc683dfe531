"""One run, read top to bottom: read, load, measure, grow, check, train, measure, save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gdo_cli.analysis.layers import Choice, choose_layers
from gdo_cli.analysis.updates import UpdateTracker
from gdo_cli.basecache import base_evaluation, base_facts
from gdo_cli.compiling import compiled
from gdo_cli.data import resolve
from gdo_cli.device import (
    compute_dtype,
    describe_machine,
    hold_weights,
    peak_memory,
    pick_device,
    reset_peak_memory,
)
from gdo_cli.errors import RunFailed, UserError, brief
from gdo_cli.evaluation import Evaluation, Suite
from gdo_cli.material import Material, read_material
from gdo_cli.models import Loaded
from gdo_cli.parameters import count_parameters, describe_parameters, text_parameters
from gdo_cli.progress import Reporter, note, warn
from gdo_cli.provenance import code_state, versions
from gdo_cli.results import RunFolder, RunResult
from gdo_cli.schema import RunConfig, identity
from gdo_cli.scoring import AnswerLM, pad
from gdo_cli.tokens import Encoded, Encoder
from gdo_cli.tracking import Mirror
from gdo_cli.training import Step, train
from gdo_cli.weights import save_trained

# Growth by k = 2 is exact. Other factors round: 1/k is no binary fraction, and a relative error of
# 2^-8 (bf16) or 2^-23 (fp32) a product adds up over the layers.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
# In fp32, torch computes the elements of an activation that fill no vector register with other code,
# and which those are depends on the number of threads: 1e-7 to 1e-6 in the logits. bf16 hides it.
EXACT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.0}  # times the largest logit
LOCAL = ("results_dir", "data.dir", "wandb")  # overrides that say where, not what


def run(config: RunConfig, force: bool = False) -> RunResult:
    """Everything that happens in a run, in order; returns at once if it is done already.

    Raises:
        UserError: data or weights that cannot be had, or an impossible choice of method or layers.
        RunFailed: growth changed the function, or training diverged.
    """
    config = replace(config, data=resolve(config.data))
    folder = RunFolder(config)
    if not force and (finished := folder.load()) is not None:
        note(f"already done: {finished.path}")
        return finished
    config.method.check(config)
    if config.data.source == "sample":
        warn("data: the bundled sample, not the real data set (set GDO_DATA_DIR, or data=hub)")
    with folder.lock():
        if not force and (finished := folder.load()) is not None:
            return finished  # another process finished it while this one waited
        material = read_material(config)
        loaded = config.model.load()
        choice = choose_layers(config, loaded.model, run)
        folder.start()
        return _Run(config, folder, material, loaded, choice).complete()


class _Run:
    """The state of a run between its stages."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, material: Material, loaded: Loaded, choice: Choice
    ) -> None:
        self.config = config
        self.choice = choice
        self.folder = folder
        self.began = time.perf_counter()
        self.code = code_state()  # now: the checkout may change while the run goes on
        self.device = pick_device()
        self.dtype = compute_dtype(config.train.precision, self.device)
        self.weights = loaded.provenance
        self.encoder = Encoder.of(loaded.tokenizer, end_ids(loaded.model))
        self.suite = Suite(config, material, self.encoder)
        self.base = loaded.model
        self.total_steps = config.train.total_steps(len(self.suite.train)) if config.method.trains else 0
        self.tokens = 0
        self.train_seconds = 0.0
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
            self.evaluate(lm, 0)
            for step in self.steps(lm):
                self.log(step)
                if step.step % self.config.evaluation.every == 0 or step.step == self.total_steps:
                    self.evaluate(lm, step.step)
            final = self.final(lm)
            self.folder.save_predictions(final.predictions)
            if self.config.save_weights:
                save_trained(lm.model, self.folder.path)
            return self.folder.seal(self.record(final))

    def steps(self, lm: AnswerLM) -> Iterator[Step]:
        config, suite = self.config, self.suite
        if not config.method.trains:
            return
        penalty = config.method.penalty(lm, suite.replay, config.seed)
        with compiled(lm.model, config.train.compile, self.total_steps):
            yield from train(lm, suite.train, config.train, config.seed, self.encoder.eos_id, penalty)

    def prepared(self) -> AnswerLM:
        """The base measured, then changed by the method, then checked to compute the same."""
        self.base.requires_grad_(False)
        hold_weights(self.base, self.dtype)
        self.base.to(self.device)
        base_lm = AnswerLM(self.base, self.dtype)
        self.suite.remember_base(base_lm)
        prompts = self.suite.check_prompts()
        before = _logits(base_lm, prompts)
        check_forward(base_lm, prompts)
        n_base = sum(p.numel() for p in text_parameters(self.base).values())
        try:
            model = self.config.method.prepare(self.base, self.choice.layers)
        except ValueError as error:
            raise UserError(f"method={self.config.name['method']}: {error}") from error
        hold_weights(model, self.dtype)
        self.updates = UpdateTracker(model.to(self.device), self.config.evaluation.ranks)
        self.parameters = count_parameters(model, n_base)
        lm = AnswerLM(model, self.dtype)
        if self.config.method.preserves:
            try:
                after = _logits(lm, prompts)
            except RuntimeError as error:  # e.g. attention that does not read its heads off the widths
                kind = type(self.base).__name__
                raise UserError(
                    f"method={self.config.name['method']}: {kind} cannot run so changed ({brief(error)})"
                ) from error
            check_preserved(before, after, self.config.method.exact(), self.dtype)
        return lm

    def log(self, step: Step) -> None:
        self.tokens += step.tokens
        self.train_seconds += step.seconds
        self.reporter.step(step.step, step.loss, step.tokens / step.seconds)
        line = {"kind": "train", "step": step.step, "loss": step.loss, "lr": step.lr}
        line |= {"grad_norm": step.grad_norm, "tokens": step.tokens, "seconds": round(step.seconds, 4)}
        line |= {"penalty": step.penalty} if step.penalty else {}
        self.folder.log(line)
        self.mirror.log(step.step, {"train/loss": step.loss, "train/lr": step.lr})

    def evaluate(self, lm: AnswerLM, step: int) -> None:
        """Measure on validation data; at step 0 this is the base model's own evaluation."""

        def measure() -> Evaluation:
            return self.suite.evaluate(lm, "validation", self.reporter.advance)

        untouched = step == 0 and self.config.method.preserves and self.config.method.exact()
        evaluation = base_evaluation(self.suite, self.base_facts(), measure) if untouched else measure()
        self.last = evaluation
        self.reporter.evaluation(step, evaluation.metrics)
        self.folder.log({"kind": "evaluation", "step": step} | evaluation.metrics)
        for row in self.updates.ranks() if step else ():
            self.folder.log({"kind": "rank", "step": step} | row)
        self.folder.save_predictions(evaluation.predictions)
        self.mirror.log(step, evaluation.metrics)

    def base_facts(self) -> dict[str, Any]:
        return base_facts(self.weights, self.dtype, self.device)

    def final(self, lm: AnswerLM) -> Evaluation:
        """The task on test data; the probes are those of the last step, which are the same items."""
        test = self.suite.evaluate_task(lm, "test", self.reporter.advance)
        probes = {key: value for key, value in self.last.metrics.items() if not key.startswith("task/")}
        self.reporter.evaluation("final", test.metrics)
        rows = [row for row in self.last.predictions if not row["part"].startswith("task/")]
        return Evaluation(test.metrics | probes, test.predictions + rows)

    def record(self, final: Evaluation) -> dict[str, Any]:
        return {
            "id": self.config.id,
            "seed": self.config.seed,
            "method_label": self.config.method.label,
            "name": self.config.name,
            "overrides": [o for o in self.config.overrides if not o.startswith(LOCAL)],
            "config": identity(self.config),
            "final": final.metrics,
            "steps": self.total_steps,
            "layers": self.choice.record,
            "parameters": self.parameters,
            "updates": self.updates.norms(),
            "data": self.suite.provenance,
            "weights": self.weights,
            "precision": str(self.dtype).removeprefix("torch."),
            "wall_seconds": round(time.perf_counter() - self.began, 1),
            "train_seconds": round(self.train_seconds, 1),
            "tokens_per_second": round(self.tokens / max(self.train_seconds, 1e-9)),
            "peak_memory_bytes": peak_memory(self.device),
            "machine": describe_machine(self.device),
            "versions": versions(),
            "code": self.code,
        }


# ------------------------------------------------------------------------------------- the guards


@torch.no_grad()
def _logits(lm: AnswerLM, prompts: list[Encoded]) -> Tensor:
    """Logits wherever an answer token is predicted, (N, V)."""
    lm.eval()
    rows = [p.context + p.continuation for p in prompts]
    width = max(map(len, rows))
    places = [b * width + t for b, p in enumerate(prompts) for t in range(len(p.context) - 1, len(p))]
    lengths = [len(row) for row in rows]
    return lm(pad(rows).to(lm.device), torch.tensor(places, device=lm.device), lengths)


@torch.no_grad()
def check_forward(lm: AnswerLM, prompts: list[Encoded]) -> None:
    """Answer-only logits must be what the model's own forward gives (heads differ by family)."""
    ids = torch.tensor([prompts[0].context], device=lm.device)
    with lm.autocast():
        own = lm.model(input_ids=ids).logits[0, -1].float()
    ours = _logits(lm, prompts[:1])[0]
    worst = float((own - ours).abs().max())
    if worst > TOLERANCE[lm.compute_dtype] * max(1.0, float(own.abs().max()) / 10):
        raise RunFailed(
            f"{type(lm.model).__name__}: logits computed for answers alone differ from the model's own by "
            f"{worst:.2g}; its head does more than gdo knows of"
        )


def check_preserved(before: Tensor, after: Tensor, exact: bool, dtype: torch.dtype) -> None:
    """The grown model must compute what the base computes, on real prompts, before step 0.

    Raises:
        RunFailed: it does not.
    """
    worst = float((before - after).abs().max())
    allowed = EXACT_TOLERANCE[dtype] * float(before.abs().max()) if exact else TOLERANCE[dtype]
    if not worst <= allowed:
        raise RunFailed(
            f"the prepared model differs from the base by up to {worst:.3g} in its logits ({allowed:g} "
            "allowed): the method does not preserve this model's function"
        )
    note(f"function preserved: largest difference of logits {worst:g}")


def end_ids(model: PreTrainedModel) -> list[int]:
    """Tokens that end a sequence for this model (``generation_config`` may name several)."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    if ids is None:
        return []
    return list(ids) if isinstance(ids, (list, tuple)) else [int(ids)]
