"""The rows of a run, and what measures a model on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.evaluation.run_data import Rehearsed, RunData, read_data, sampled_parts
from gdo_cli.lm.tokens import Encoder
from gdo_cli.methods.regularized import Replay
from gdo_cli.runs.record import RunResult
from gdo_cli.support.console import warn
from gdo_cli.support.errors import UserError


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
    if not isinstance(method, Replay):
        return None
    return Rehearsed(method.dataset, method.min_characters, method.control_tokens)


def require_same_rows(run: RunResult, data: dict[str, Any], extra: Sequence[str] = ()) -> None:
    """Raise a UserError unless the rows that were read are those that the run was made with.

    Args:
        data: the record of what was read, as ``data`` in a run's record.
        extra: overrides of the command; where they name other data, other rows are what is asked for.
    """
    if any(_names_other_data(word) for word in extra):
        return
    before = run.record.data
    for part, now in data.items():
        if not (isinstance(now, dict) and isinstance(before.get(part), dict)):
            continue
        old, new = before[part].get("sha256"), now.get("sha256")
        if old and new and old != new:
            raise UserError(
                f"{run.title}: the {part} rows are not those that the run was made with (checksum "
                f"{new[:12]}… instead of {old[:12]}…); name their place (data.dir=FOLDER), or other data "
                "on purpose (data=…)"
            )


def _names_other_data(override: str) -> bool:
    key = override.partition("=")[0]
    return key in ("data", "task", "task.path") or ".dataset" in key
