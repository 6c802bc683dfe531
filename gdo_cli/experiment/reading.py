"""The rows of a run, and what measures a model on them."""

from __future__ import annotations

from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.evaluation.run_data import Rehearsed, RunData, read_data, sampled_parts
from gdo_cli.lm.tokens import Encoder
from gdo_cli.methods.regularized import Replay
from gdo_cli.support.console import warn


def read_run_data(config: RunConfig) -> RunData:
    """Read every split that the run needs, and say so if it is the bundled sample's.

    Raises:
        UserError: missing data, or more unusable rows than allowed.
    """
    replay = _rehearsed(config)
    if parts := sampled_parts(config.task, config.probe, config.data, replay):
        warn(
            f"data=sample: the bundled sample stands for {', '.join(parts)}; it is made for trying things "
            "out, not for results (real rows: data.dir=FOLDER, or data=hub)"
        )
    return read_data(config.task, config.probe, config.data, config.evaluation, config.method.shots, replay)


def build_evaluator(config: RunConfig, data: RunData, encoder: Encoder) -> Evaluator:
    """Return what measures a model on the run's rows.

    Raises:
        UserError: too many training examples are longer than allowed.
    """
    return Evaluator(config.task, config.probe, data, encoder, config.evaluation, config.train.max_length)


def _rehearsed(config: RunConfig) -> Rehearsed | None:
    method = config.method
    return Rehearsed(method.dataset, method.min_characters) if isinstance(method, Replay) else None
