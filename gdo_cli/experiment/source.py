"""Whether a run's method goes with the rest of it and with the run whose weights it takes, and its optimizer
with the machine."""

from __future__ import annotations

import shlex

from gdo_cli.config.recorded import build_method
from gdo_cli.config.run_config import RunConfig
from gdo_cli.lm.device import pick_device
from gdo_cli.methods.base import Method
from gdo_cli.methods.interpolation import OfRun
from gdo_cli.runs.find import find_run
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity
from gdo_cli.training.optimizers import check_optimizer


def check_method(config: RunConfig) -> None:
    """Refuse a run that its method or its optimizer cannot do, before anything is loaded.

    Raises:
        UserError: with the reason.
    """
    method = config.method
    method.check(config.task, config.train)
    if method.trains:
        check_optimizer(config.train.optimizer, pick_device())
    source = find_source(config)
    if isinstance(method, OfRun) and source is not None:
        _check_source(method, source, config)
        method.check_source(recorded_method(source))


def find_source(config: RunConfig) -> RunResult | None:
    """Return the finished run that the method takes its weights from; None where it takes none.

    Raises:
        UserError: no such run, or several.
    """
    method = config.method
    return find_run(method.run, method.results_dir) if isinstance(method, OfRun) else None


def recorded_method(run: RunResult) -> Method:
    """Return the run's method with the settings that it ran with, whatever has become of its YAML file.

    Raises:
        UserError: there is no such method any more.
    """
    return build_method(identity(run.record.config["method"]))  # OmegaConf takes plain dictionaries alone


def _check_source(method: OfRun, source: RunResult, config: RunConfig) -> None:
    name = config.name["model"]
    if not source.record.steps:
        raise UserError(f"method.run={method.run}: {source.title} trained nothing; name a run that did")
    if source.weights is None:
        raise UserError(
            f"method.run={method.run}: its weights were not kept; run it again: gdo train --force "
            f"{shlex.join(source.record.overrides)}"
        )
    if source.name["model"] != name:
        raise UserError(f"method.run={method.run}: a run of model={source.name['model']}, not of {name}")
    if source.record.config["model"] != identity(config.model):
        raise UserError(f"method.run={method.run}: its model={name} had other settings")
