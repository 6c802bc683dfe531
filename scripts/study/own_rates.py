"""``python -m study.own_rates``: the learning rate of every row of that experiment, by the protocol's rule.

The smallest rate that is within one standard error of the best, on validation items: rates that cannot be
told apart differ in how far they move the model. What is retained is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import typer

from gdo_cli.cli.arguments import ConfigDir, Results, messages
from gdo_cli.figures.experiments import FinishedRuns
from gdo_cli.figures.groups import standard_error
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.outcomes import plus_minus
from gdo_cli.support.markdown import rate, table

SEEDS = 2  # a rate is not judged by fewer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Row = tuple[str, str, str]  # task, method, layers


@dataclass(frozen=True)
class Rated:
    """What one rate gives on validation items: mean over seeds, its standard error (over items and seeds)."""

    score: float
    error: float


def within_one_standard_error(rates: Mapping[float, Rated]) -> float:
    """Return the smallest rate whose score is no more than one standard error of the best's below it."""
    best = max(rates.values(), key=lambda rated: rated.score)
    return min(lr for lr, rated in rates.items() if rated.score >= best.score - best.error)


def rated(seeds: Sequence[RunResult]) -> Rated:
    """Return what several seeds of one configuration give."""
    last = [run.evaluations[-1] for run in seeds]
    return Rated(mean(run.validation_score for run in seeds), standard_error(last, seeds[0].task_score))


def by_row(runs: Sequence[RunResult]) -> dict[Row, dict[float, Rated]]:
    """Return the rates of each row that have been run with enough seeds."""
    found: dict[Row, dict[float, list[RunResult]]] = {}
    for run in runs:
        row = (run.name["task"], run.name["method"], str(run.record.config["layers"]))
        found.setdefault(row, {}).setdefault(run.setting("train.lr"), []).append(run)
    return {
        row: {lr: rated(seeds) for lr, seeds in sorted(rates.items()) if len(seeds) >= SEEDS}
        for row, rates in found.items()
    }


def told(row: Row, rates: Mapping[float, Rated]) -> list[str]:
    """Return the line of a row: all of its rates, the one chosen, and whether it ought to go on."""
    if len(rates) < 2:
        return [*row, "–", "too few runs", ""]
    chosen = within_one_standard_error(rates)
    best = max(rates, key=lambda lr: rates[lr].score)
    scores = ", ".join(f"{rate(lr)}: {plus_minus(each.score, each.error)}" for lr, each in rates.items())
    open_ends = ["a lower rate may do as well"] if chosen == min(rates) else []
    open_ends += ["a higher rate may be better"] if best == max(rates) else []
    return [*row, rate(chosen), scores, "; ".join(open_ends)]


@app.command()
def main(results: Results = Path("results"), config_dir: ConfigDir = None) -> None:
    """Print the rates that `conf/experiment/primary.yaml` is to have."""
    with messages():
        runs, missing = FinishedRuns(results, config_dir).of("own_rates", [])
        heading = ["task", "method", "layers", "rate", "validation score of each", "open ends"]
        typer.echo(table(heading, [told(row, rates) for row, rates in by_row(runs).items()], words=3))
        typer.echo(f"\n{len(missing)} points of own_rates have no run yet.")


if __name__ == "__main__":
    app()
