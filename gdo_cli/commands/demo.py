"""``gdo demo``: full fine-tuning and growth on bundled data, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gdo_cli.config.grid import load_grid
from gdo_cli.config.options import quoted
from gdo_cli.runs.items import guessing
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.metrics import INDEX
from gdo_cli.support.console import note

TEXT = "perplexity/loss"
HEADING = ("", "task accuracy", "retention index", "text loss ↓")


@dataclass(frozen=True)
class Demo:
    """The runs of the demo, full fine-tuning first."""

    runs: list[RunResult]

    def rows(self) -> list[list[str]]:
        """Return a line for the base model and for each run: task, retention index, loss on text."""
        base = self.runs[0].evaluations[0]
        found = [["base model", f"{base[self.score]:.3f}", f"{base[INDEX]:.3f}", f"{base[TEXT]:.3f}"]]
        for run in self.runs:
            values = (run.final[measure] for measure in (self.score, INDEX, TEXT))
            found.append([run.label, *(f"{value:.3f}" for value in values)])
        return found

    @property
    def score(self) -> str:
        return self.runs[0].task_score

    def sentence(self) -> str:
        """Return what the table says, in words."""
        level = guessing(self.runs)
        learnt = f" (guessing: {level:.3f})" if level is not None else ""
        kept = ", ".join(f"{run.label} {run.final[INDEX]:.0%}" for run in self.runs)
        return (
            f"Task accuracy is what was learnt{learnt}. The retention index is what is left of what the base "
            f"model could do: {kept}. One seed and few items: a demonstration, no result."
        )

    def next_commands(self) -> list[str]:
        """Return what to try next."""
        grown = self.runs[-1].path
        return [
            f"gdo check {grown}",
            f'gdo generate {grown} "The capital of France is"',
            "gdo tune task=scitail keep=default trials=12",
        ]


def run_demo(results: Path) -> Demo:
    """Train what ``experiment=demo`` has; finished runs are not repeated."""
    points = load_grid(["experiment=demo", f"results_dir={quoted(str(results))}"])
    from gdo_cli.experiment.run import run

    found = []
    for number, (_, config) in enumerate(points, 1):
        note(f"run {number} of {len(points)}: {config.method.label}, {config.train.steps} steps")
        found.append(run(config))
    return Demo(found)
