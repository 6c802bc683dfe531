"""``gdo analyze fv``: how much of the base model's function vector for a task a run has kept (Table 1).

Shapes: P clean prompts, E shuffled ones, N heads of all layers, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from gdo_cli.commands.analyze.function_vectors import Array, Heads, Measured, in_residual_stream, measure
from gdo_cli.commands.analyze.prompts import Sample, TaskPrompts
from gdo_cli.commands.analyze.skeleton import Analysis
from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.base_cache import base_arrays
from gdo_cli.experiment.reopen import Opened
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import Reporter
from gdo_cli.support.errors import UserError, require, require_one_of
from gdo_cli.support.files import write_atomically

VECTORS = "fv.safetensors"
MEASURING = ("commands/analyze", "lm")  # whose code decides what is measured
DRAWS = 1000
LEVEL = 0.95
# Weights of the clean prompts, (P,), and of the shuffled ones, (E,); each sum to one. None: all alike.
Weights = tuple[Array | None, Array | None]
EVEN: Weights = (None, None)


@dataclass(frozen=True)
class FunctionVectors(Analysis):
    """How function vectors are measured (Todd et al.: 10, 100, 25, 10)."""

    kind: ClassVar = "fv"
    beside: ClassVar = (VECTORS,)
    shots: int = 10  # solved examples in every prompt
    prompts: int = 100  # over which the heads' outputs are averaged
    effect_prompts: int = 25  # with shuffled answers, for the indirect effects
    heads: int = 10  # of a function vector
    seed: int = 0  # draws the prompts and the bootstrap
    # ``fp32``, ``bf16`` or ``auto``. In bf16 the effect of a head on a prompt is off by 0.005 (Gemma 3 270M
    # on SciTail), as much as separates all heads but the first few.
    precision: str = "fp32"

    def __post_init__(self) -> None:
        require_one_of("--precision", self.precision, ("auto", "bf16", "fp32"))

    def configure(self, run: RunResult, config_dir: Path | None) -> RunConfig:
        config = super().configure(run, config_dir)
        return replace(config, train=replace(config.train, precision=self.precision))

    def measure(self, opened: Opened, run: RunResult, reporter: Reporter) -> dict[str, Any]:
        """Compare base and run on the same prompts, and the base with itself on others, as the ceiling."""
        task = TaskPrompts(opened.data, opened.encoder, opened.config.train.max_length)
        samples = task.samples(2, self.shots, self.prompts, self.effect_prompts, self.seed)
        lm = opened.base()
        heads = _heads(lm, self.heads)
        _check_length(lm, samples)
        base, again = (
            _measure_base(opened, lm, heads, sample, reporter.part_of(f"base, {which} prompts", len(sample)))
            for which, sample in zip(("the same", "other"), samples, strict=True)
        )
        vectors = {"base": in_residual_stream(heads, base, top_heads(base.effects, self.heads))}
        del lm  # with its copy of the head
        tuned = measure(opened.tuned(), heads, samples[0], reporter.part_of("the run", len(samples[0])))
        vectors["run"] = in_residual_stream(heads, tuned, top_heads(tuned.effects, self.heads))
        write_atomically(run.analysis_folder() / VECTORS, save(vectors))
        models = {"base": base, "base_other_prompts": again, "run": tuned}
        return {
            "n_heads": len(heads),
            "run": compare(base, tuned, self.heads, paired=True, seed=self.seed),
            "ceiling": compare(base, again, self.heads, paired=False, seed=self.seed),
            "chance": chance(base, self.heads, self.seed),
            "models": {name: _summary(measured, heads, self.heads) for name, measured in models.items()},
            "prompt_tokens": round(float(np.mean([len(q.context) for q in samples[0].clean])), 1),
        }


def read_vectors(run: RunResult) -> dict[str, Array]:
    """Return the function vectors of a run, ``run``, and of its ``base``, in the residual stream: (D,) each.

    Raises:
        UserError: they have not been measured.
    """
    file = run.path / "analysis" / VECTORS
    there = run.analysis(FunctionVectors.kind) is not None and file.is_file()
    require(there, f"{run.title}: no function vectors yet; measure them: gdo analyze fv {run.title}")
    return load(file.read_bytes())


def _heads(lm: AnswerLM, n: int) -> Heads:
    try:
        heads = Heads(lm.model)
    except ValueError as error:
        raise UserError(f"no function vectors: {error}") from error
    require(n <= len(heads), f"--heads {n}: the model has {len(heads)}")
    return heads


def _check_length(lm: AnswerLM, samples: list[Sample]) -> None:
    most = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(q.context) for sample in samples for q in (*sample.clean, *sample.shuffled))
    if most is not None and longest > most:
        raise UserError(f"a prompt has {longest} tokens and the model takes {most}: give fewer --shots")


def _measure_base(
    opened: Opened, lm: AnswerLM, heads: Heads, sample: Sample, advance: Callable[[int], None]
) -> Measured:
    """The base model's part, which all runs on a task share."""
    tokens = [[(q.context, q.continuation) for q in part] for part in (sample.clean, sample.shuffled)]
    key = {"kind": FunctionVectors.kind, "prompts": tokens, **opened.facts}
    return Measured(**base_arrays(key, MEASURING, lambda: vars(measure(lm, heads, sample, advance))))


def _summary(measured: Measured, heads: Heads, n: int) -> dict[str, Any]:
    """Its heads of largest effect, and how well the examples in the prompt work at all."""
    places, effects = heads.places(), measured.effects.mean(0)
    return {
        "heads": [
            {"layer": places[i][0], "head": places[i][1], "effect": float(effects[i])}
            for i in top_heads(measured.effects, n)
        ],
        "right_answer": {"clean": float(measured.clean.mean()), "shuffled": float(measured.shuffled.mean())},
    }


# ----------------------------------------------------------------------------------------- comparing


def top_heads(effects_EN: Array, n: int, weights_E: Array | None = None) -> NDArray[np.intp]:
    """Return the indices of the n heads of largest mean effect, the largest first."""
    return np.argsort(-np.average(effects_EN, axis=0, weights=weights_E), kind="stable")[:n]


def function_vector(
    contributions_PND: Array, heads: NDArray[np.intp], weights_P: Array | None = None
) -> Array:
    """Return the mean over the prompts of what the heads add together, (D,)."""
    n_prompts = len(contributions_PND)
    weights = np.full(n_prompts, 1 / n_prompts, np.float32) if weights_P is None else weights_P
    each = [weights @ contributions_PND[:, head] for head in heads]  # no copy of all that is not asked for
    return np.sum(each, axis=0)


def cosine(a: Array, b: Array) -> float:
    """Of the angle between two vectors; 0 if one of them is zero."""
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a.astype(np.float64) @ b.astype(np.float64)) / norms if norms else 0.0


def compare(base: Measured, other: Measured, n: int, paired: bool, seed: int) -> dict[str, dict[str, float]]:
    """Return the paper's two numbers, and the second also with each model's own heads.

    Args:
        n: heads of a function vector.
        paired: whether both were measured on the same prompts, which are then drawn together.
    Returns:
        ``overlap``: heads that are among the n most effective in both. ``cosine_base_heads``: of the
        function vectors over the base's n heads. ``cosine_own_heads``: over each model's own.
        Each as ``value``, and ``low`` and ``high``, between which 95 % of 1,000 bootstrap draws of
        prompts lie, heads chosen anew in each. A draw repeats prompts and so chooses heads with more
        noise: where prompts are not paired, overlaps of draws lie below the value, not around it.
    """
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS):
        first = _draw(base, generator)
        draws.append(_figures(base, other, n, first, first if paired else _draw(other, generator)))
    return {
        name: {"value": value} | _interval([draw[name] for draw in draws])
        for name, value in _figures(base, other, n, EVEN, EVEN).items()
    }


def _draw(measured: Measured, generator: np.random.Generator) -> Weights:
    """How often each prompt comes when as many are drawn with replacement, as shares."""
    sizes = len(measured.clean), len(measured.shuffled)
    clean, shuffled = (np.bincount(generator.integers(n, size=n), minlength=n) / n for n in sizes)
    return clean.astype(np.float32), shuffled.astype(np.float32)


def _figures(
    base: Measured, other: Measured, n: int, drawn: Weights, drawn_other: Weights
) -> dict[str, float]:
    ours = top_heads(base.effects, n, drawn[1])
    theirs = top_heads(other.effects, n, drawn_other[1])
    vector = function_vector(base.contributions, ours, drawn[0])
    return {
        "overlap": float(len(np.intersect1d(ours, theirs))),
        "cosine_base_heads": cosine(vector, function_vector(other.contributions, ours, drawn_other[0])),
        "cosine_own_heads": cosine(vector, function_vector(other.contributions, theirs, drawn_other[0])),
    }


def chance(base: Measured, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Return what n heads drawn at random would give: the floor.

    Returns:
        ``overlap``: n²/N, the mean of a hypergeometric distribution. ``cosine``: of the base's function
        vector with that of random heads of the base itself, mean and where 95 % of the draws lie.
    """
    n_heads = base.effects.shape[1]
    generator = np.random.default_rng(seed)
    mean = base.contributions.mean(0)  # (N, D)
    vector = mean[top_heads(base.effects, n)].sum(0)
    draws = [cosine(vector, mean[generator.choice(n_heads, n, replace=False)].sum(0)) for _ in range(DRAWS)]
    return {
        "overlap": {"value": n * n / n_heads},
        "cosine": {"value": float(np.mean(draws))} | _interval(draws),
    }


def _interval(draws: list[float]) -> dict[str, float]:
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(draws, ends, method="closest_observation")  # heads come in whole numbers
    return {"low": float(low), "high": float(high)}
