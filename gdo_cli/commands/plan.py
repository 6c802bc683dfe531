"""``gdo plan``: what every method costs on one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gdo_cli.config.build import load_run
from gdo_cli.config.options import options
from gdo_cli.experiment.plan import Plan, plan
from gdo_cli.support.errors import UserError


def plan_all(overrides: list[str], length: int, config_dir: Path | None) -> tuple[list[Plan], dict[str, str]]:
    """Return the plan of every method for the model, layers and batch of the overrides.

    Returns:
        The plans, and for methods that do not go with the overrides or the model, the reason.
    """
    named = [o for o in overrides if o.startswith("method=")]
    methods = [named[-1].partition("=")[2]] if named else options("method", config_dir)
    rest = [o for o in overrides if not o.startswith("method=")]
    plans, refused = [], {}
    for name in methods:
        try:
            config = load_run([*rest, f"method={name}"], config_dir)
            plans.append(plan(config, length))
        except (UserError, ValueError) as error:
            refused[name] = str(error)
        except NotImplementedError:  # SHiRA draws places among the weights
            refused[name] = "how it starts hangs on the weights, which a plan does without"
    if not plans:
        raise UserError(next(iter(refused.values())))
    return plans, refused


def to_dict(plans: list[Plan], refused: dict[str, str]) -> dict[str, Any]:
    """Return the fields of ``--json``: memory in bytes, operations of one step."""
    return {"plans": [vars(item) | {"counts": vars(item.counts)} for item in plans], "refused": refused}
