"""Names that tell runs apart, by the settings in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from gdo_cli.runs.record import RunResult
from gdo_cli.support.markdown import rate


def distinct_names(runs: list[RunResult]) -> dict[str, str]:
    """Return a name for each run's id: its method's, with the settings in which it differs from most
    namesakes.

    Runs that differ in none of these (in a probe, say) have their id behind their name.
    """
    labels = {run.id: run.label for run in runs}
    own = {key: [f"{k}={v}" for k, v in settings.items()] for key, settings in differences(runs).items()}
    names = {key: ", ".join([labels[key], *settings]) for key, settings in own.items()}
    times = Counter(names.values())
    return {key: name if times[name] == 1 else f"{name}, {key}" for key, name in names.items()}


def differences(runs: Iterable[RunResult]) -> dict[str, dict[str, str]]:
    """For each run's id, the settings in which it differs from most runs of its method's name."""
    by_label: dict[str, dict[str, RunResult]] = {}
    for run in runs:
        by_label.setdefault(run.label, {})[run.id] = run
    found = {}
    for namesakes in by_label.values():
        asked = set.intersection(*(set(_of_task(run)) for run in namesakes.values()))
        settings = {key: _settings(run, asked) for key, run in namesakes.items()}
        counts = Counter(item for own in settings.values() for item in own.items())
        for key, own in settings.items():  # without what more than half of them have in common
            found[key] = {k: value for k, value in own.items() if 2 * counts[k, value] <= len(settings)}
    return found


def _settings(run: RunResult, asked: set[str]) -> dict[str, str]:
    """What namesakes may differ in, in the order in which a name tells it; of the task's settings, these."""
    config = run.record.config
    found: dict[str, Any] = {key: run.name[key] for key in ("model", "task")}
    found |= {key: value for key, value in _of_task(run).items() if key in asked}
    found |= {key: config[key] for key in ("layers", "layer_rule") if key in config}
    found |= {k: v for k, v in config["method"].items() if k not in ("_target_", "name", "options")}
    found |= config["method"].get("options", {}) | config["train"] | {"lr": rate(config["train"]["lr"])}
    return {key: str(value) for key, value in found.items()}


def _of_task(run: RunResult) -> dict[str, Any]:
    """What its task was asked for: the form of its answers, say; not where its rows are."""
    own = run.record.config.get("task", {})
    return {k: v for k, v in own.items() if k != "_target_" and not isinstance(v, dict)}
