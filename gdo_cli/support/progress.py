"""Progress of long work: bars on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gdo_cli.support.console import errors


class Reporter:
    """Follows one run. Use as a context manager."""

    def __init__(self, title: str, total_steps: int) -> None:
        self.total = total_steps
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=errors,
            disable=not errors.is_terminal,
            transient=True,
        )
        self.main = self.bars.add_task(title, total=total_steps, status="")
        self.part: Any = None
        self.part_name = ""

    def __enter__(self) -> Reporter:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def step(self, number: int, loss: float, tokens_per_s: float) -> None:
        self.bars.update(
            self.main, completed=number, status=f"loss {loss:.3f} · {tokens_per_s:,.0f} tokens/s"
        )

    def advance(self, part: str, n: int, total: int) -> None:
        """Progress inside an evaluation: n more of the total are done."""
        if part != self.part_name:
            self.end_evaluation()
            self.part = self.bars.add_task(f"  evaluating {part}", total=total, status="")
            self.part_name = part
        self.bars.advance(self.part, n)

    def part_of(self, part: str, total: int) -> Callable[[int], None]:
        """Return what tells the progress of one part: called with the number that is done."""
        return lambda n: self.advance(part, n, total)

    def end_evaluation(self) -> None:
        if self.part is not None:
            self.bars.remove_task(self.part)
        self.part, self.part_name = None, ""

    def evaluation(self, step: int | str, metrics: dict[str, float]) -> None:
        """One line for an evaluation that is done."""
        self.end_evaluation()
        shown = "  ".join(f"{key} {value:.3f}" for key, value in metrics.items() if not key.endswith("_se"))
        self.bars.console.print(f"[bold]{step!s:>6}[/]  {shown}", highlight=False, soft_wrap=True)
