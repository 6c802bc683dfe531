"""WinoGrande's generated answers by the place of the right option: knowledge, or a habit?

A model that always names the same option gets half of the items right. What it gets of those where the first
is right, and of those where the second is, then adds up to 1. So it does for any model that picks a place
without reading; where it often names neither, it adds up to less.

PYTHONPATH=scripts python -m places RUN RUN …
"""

from __future__ import annotations

import sys
from statistics import mean

from gdo_cli.config.build import rebuild
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.runs.find import find_run
from gdo_cli.runs.record import RunResult
from gdo_cli.support.markdown import table

PROBE, SCORE = "winogrande", "exact_match"


def by_place(run: RunResult) -> tuple[list[float], list[float]]:
    """1 for each item that was answered right, else 0: where option 1 is, and where option 2 is."""
    rows, _ = read_run_data(rebuild(run, None)).probes[PROBE]
    found: tuple[list[float], list[float]] = ([], [])
    for prediction in run.predictions:
        if prediction["part"] == PROBE:
            found[int(rows[prediction["item"]]["answer"]) - 1].append(prediction[SCORE])
    return found


def main(references: list[str], results: str = "results") -> None:
    rows = []
    for run in (find_run(reference, results) for reference in references):
        first, second = by_place(run)
        numbers = (mean(first), mean(second), mean(first) + mean(second), mean(first + second))
        rows.append((run.title, *(f"{n:.3f}" for n in numbers), f"{len(first)} and {len(second)}"))
    heading = ("run", "option 1 is right", "option 2 is right", "sum", "all", "items")
    print(table(heading, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
