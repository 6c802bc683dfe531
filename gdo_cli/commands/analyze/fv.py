"""``gdo analyze fv``: how much of the base model's function vector for a task a run has kept (Table 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from gdo_cli.commands.analyze.comparison import chance, compare, top_heads
from gdo_cli.commands.analyze.function_vectors import Array, Measured, in_residual_stream, measure
from gdo_cli.commands.analyze.heads import Heads
from gdo_cli.commands.analyze.prompts import Sample, TaskPrompts, all_questions
from gdo_cli.commands.analyze.skeleton import analyse_run
from gdo_cli.config.build import rebuild
from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.base_cache import base_arrays
from gdo_cli.experiment.reopen import Opened
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import Reporter
from gdo_cli.support.errors import UserError, require_one_of
from gdo_cli.support.files import write_atomically

KIND, VECTORS = "fv", "fv.safetensors"
MEASURING = ("commands/analyze", "lm")  # whose code decides what is measured


@dataclass(frozen=True)
class Options:
    """How function vectors are measured (Todd et al.: 10, 100, 25, 10).

    Attributes:
        shots: solved examples in every prompt.
        prompts: prompts over which the heads' outputs are averaged.
        effect_prompts: prompts with shuffled answers, for the indirect effects.
        heads: heads of a function vector.
        seed: draws the prompts and the bootstrap.
        precision: ``fp32``, ``bf16`` or ``auto``. In bf16 the effect of a head on a prompt is off by 0.005
            (Gemma 3 270M on SciTail), as much as separates all heads but the first few.
    """

    shots: int = 10
    prompts: int = 100
    effect_prompts: int = 25
    heads: int = 10
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        require_one_of("--precision", self.precision, ("auto", "bf16", "fp32"))


def analyse(run: RunResult, options: Options, config_dir: Path | None, force: bool = False) -> dict[str, Any]:
    """Compare a run's function vector with its base model's, and keep what is found beside the run.

    Base and run are measured on the same prompts; the base also on others, as the ceiling.

    Raises:
        UserError: no weights, no data, more heads than the model has, or prompts that are too long.
    """

    def configure() -> RunConfig:
        config = all_questions(rebuild(run, config_dir))
        return replace(config, train=replace(config.train, precision=options.precision))

    return analyse_run(run, KIND, asdict(options), configure, partial(_measure, options), force, [VECTORS])


def _measure(options: Options, opened: Opened, reporter: Reporter) -> dict[str, Any]:
    task = TaskPrompts(opened.data, opened.encoder, opened.config.train.max_length)
    samples = task.samples(2, options.shots, options.prompts, options.effect_prompts, options.seed)
    lm = opened.base()
    heads = _heads(lm, options)
    _check_length(lm, samples)
    base, again = (
        _measure_base(opened, lm, heads, sample, reporter.part_of(f"base, {which} prompts", len(sample)))
        for which, sample in zip(("the same", "other"), samples, strict=True)
    )
    vectors = {"base": _vector(heads, base, options.heads)}
    del lm  # with its copy of the head
    tuned = measure(opened.tuned(), heads, samples[0], reporter.part_of("the run", len(samples[0])))
    vectors["run"] = _vector(heads, tuned, options.heads)
    assert opened.run is not None
    write_atomically(opened.run.analysis_folder() / VECTORS, save(vectors))
    return {
        "n_heads": len(heads),
        "run": compare(base, tuned, options.heads, paired=True, seed=options.seed),
        "ceiling": compare(base, again, options.heads, paired=False, seed=options.seed),
        "chance": chance(base, options.heads, options.seed),
        "models": {
            name: _summary(measured, heads, options.heads)
            for name, measured in (("base", base), ("base_other_prompts", again), ("run", tuned))
        },
        "prompt_tokens": round(float(np.mean([len(q.context) for q in samples[0].clean])), 1),
    }


def read_vectors(run: RunResult) -> dict[str, Array]:
    """Return the function vectors of a run, ``run``, and of its ``base``, in the residual stream: (D,) each.

    Raises:
        UserError: they have not been measured.
    """
    file = run.path / "analysis" / VECTORS
    if run.analysis(KIND) is None or not file.is_file():
        raise UserError(f"{run.title}: no function vectors yet; measure them: gdo analyze fv {run.title}")
    return load(file.read_bytes())


def _vector(heads: Heads, measured: Measured, n: int) -> Array:
    return in_residual_stream(heads, measured, top_heads(measured.effects, n).tolist())


def _heads(lm: AnswerLM, options: Options) -> Heads:
    try:
        heads = Heads(lm.model)
    except ValueError as error:
        raise UserError(f"no function vectors: {error}") from error
    if options.heads > len(heads):
        raise UserError(f"--heads {options.heads}: the model has {len(heads)}")
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
    key = {"kind": KIND, "prompts": sample.content(), **opened.facts}
    return Measured(**base_arrays(key, MEASURING, lambda: vars(measure(lm, heads, sample, advance))))


def _summary(measured: Measured, heads: Heads, n: int) -> dict[str, Any]:
    """Its heads of largest effect, and how well the examples in the prompt work at all."""
    places, effects = heads.places(), measured.effects.mean(0)
    return {
        "heads": [
            {"layer": places[i][0], "head": places[i][1], "effect": float(effects[i])}
            for i in top_heads(measured.effects, n)
        ],
        "right_answer": {
            "clean": float(measured.clean.mean()),
            "shuffled": float(measured.shuffled.mean()),
        },
    }
