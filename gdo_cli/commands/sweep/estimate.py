"""What the open points of a sweep would cost, told before they run.

By finished runs of the same model and method where there are any, else by the plan of the method
(:mod:`gdo_cli.experiment.plan`). Good for choosing between an hour and a day, not for more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment.plan import EFFICIENCY, Plan, matrix_rate, plan
from gdo_cli.methods.partial import Frozen
from gdo_cli.runs.find import find_runs
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError

# Tokens of a sequence and items of a whole test set, where the plan has to assume them.
LENGTH, WHOLE_SET = 64, 2000


@dataclass(frozen=True)
class Estimate:
    """Cost of a point, for one process on its own; None where nothing is known."""

    hours: float | None
    memory: float | None  # bytes, at the peak
    source: str  # ``runs``, ``plan``, or ``unknown``


class Estimator:
    """Estimates for the points of a sweep; what they share is worked out once."""

    def __init__(self, results_dir: str) -> None:
        self.finished = find_runs(results_dir)
        self.rate: Callable[[], float] = cache(matrix_rate)
        self.plans: dict[str, Plan | None] = {}

    def estimate(self, config: RunConfig) -> Estimate:
        """Return what a run is going to take on this machine, in hours, and hold, in bytes."""
        steps = 0 if not config.method.trains else config.train.steps
        if steps is None:  # epochs: the length of the data is not known without reading it
            return Estimate(None, None, "unknown")
        if runs := self.alike(config):
            seconds = median(_seconds_like(run, config, steps) for run in runs)
            return Estimate(seconds / 3600, median(r.record.peak_memory_bytes for r in runs), "runs")
        if (planned := self.plan(config)) is None:
            return Estimate(None, None, "unknown")
        flops = steps * config.train.gradient_accumulation_steps * planned.flops
        flops += 2 * planned.counts.base * LENGTH * _items(config, steps)
        memory = planned.weights + planned.training + planned.activations
        return Estimate(flops / (EFFICIENCY * self.rate()) / 3600, memory, "plan")

    def alike(self, config: RunConfig) -> list[RunResult]:
        """Return finished runs of the same model and method; of them, those nearest in layers and task."""
        runs = [run for run in self.finished if _of(run, "model", "method") == _of(config, "model", "method")]
        runs = [run for run in runs if bool(run.record.steps) == config.method.trains]
        runs = [run for run in runs if run.record.config["layers"] == config.layers] or runs
        return [run for run in runs if _of(run, "task") == _of(config, "task")] or runs

    def plan(self, config: RunConfig) -> Plan | None:
        """Return the plan of the method, or None where the shape of the model is not known."""
        method = config.method if config.method.trains else Frozen()
        batch, optimizer = config.train.batch_size, config.train.optimizer
        key = f"{config.name['model']} {config.model} {method} {batch} {optimizer}"
        if key not in self.plans:
            try:
                self.plans[key] = plan(replace(config, method=method), LENGTH)
            except (UserError, ValueError, RuntimeError):
                self.plans[key] = None
        return self.plans[key]

    def sources(self, estimates: list[Estimate]) -> str:
        """Return where the numbers come from, in words."""
        counted = Counter(estimate.source for estimate in estimates)
        named = {
            "runs": "from finished runs of the same model and method",
            "plan": f"from gdo plan ({LENGTH} tokens a sequence, {100 * EFFICIENCY:.0f} % of this device's "
            f"{self.rate() / 1e12 if counted['plan'] else 0:.2f} TFLOP/s)",
            "unknown": "unknown",
        }
        return "; ".join(f"{counted[kind]} {words}" for kind, words in named.items() if counted[kind])


def _of(run: RunResult | RunConfig, *groups: str) -> tuple[str, ...]:
    return tuple(run.name[group] for group in groups)


def _seconds_like(run: RunResult, config: RunConfig, steps: int) -> float:
    """The time of a finished run, stretched to the steps, batches and evaluations of another."""
    record, train = run.record, run.record.config["train"]
    batch = config.train.batch_size * config.train.gradient_accumulation_steps
    longer = steps * batch / max(1, record.steps * train["batch_size"] * train["gradient_accumulation_steps"])
    before = record.steps // record.config["evaluation"]["every"] + 2
    more = (steps // config.evaluation.every + 2) / before
    rest = record.wall_seconds - record.train_seconds
    return float(record.train_seconds * longer + rest * more)


def _items(config: RunConfig, steps: int) -> int:
    """Sequences that a run scores: at step 0, every so many steps, and at the end."""
    evaluation = config.evaluation
    asked = [evaluation.items, *(getattr(probe, "items", None) for probe in config.probe.values())]
    once = sum(WHOLE_SET if n is None else n for n in asked)
    final = WHOLE_SET if evaluation.final_items is None else evaluation.final_items
    return once * (steps // evaluation.every + 1) + final
