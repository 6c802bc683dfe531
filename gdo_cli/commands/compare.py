"""``gdo compare``: runs side by side, with intervals, and paired tests against the first of them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

from gdo_cli.runs.find import find_seeds
from gdo_cli.runs.items import TASK, Items, change_over_seeds, items_of, over_seeds
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.metrics import INDEX, measure_named, task_scores
from gdo_cli.stats.seeds import seed_difference
from gdo_cli.stats.uncertainty import Interval, Paired
from gdo_cli.support.errors import UserError
from gdo_cli.support.markdown import table


@dataclass(frozen=True)
class Column:
    """A run, or the seeds of one."""

    label: str
    runs: list[RunResult]

    @property
    def title(self) -> str:
        """E.g. ``scitail/sft-1a2b3c4d/seed0``; ``scitail/sft-1a2b3c4d/seed0,1,2``."""
        first = self.runs[0].title.rpartition("/seed")[0]
        return f"{first}/seed{','.join(str(run.seed) for run in self.runs)}"


@dataclass(frozen=True)
class Cell:
    """One measure of a column.

    Attributes:
        items: items measured, in each run.
        paired: the comparison with the first column; None in the first, and where there is none.
        note: why there is none.
    """

    items: int
    interval: Interval
    paired: Paired | None = None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Columns, and by measure a cell for each of them (None where a run does not have the measure)."""

    columns: list[Column]
    rows: dict[str, list[Cell | None]]

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of the numbers."""
        cells = [cell for row in self.rows.values() for cell in row if cell]
        tests = sorted({cell.paired.test for cell in cells if cell.paired})
        several = any(len(column.runs) > 1 for column in self.columns)
        over = "items (Wilson; bootstrap for means)" + (
            ", over seeds too where several (t)" if several else ""
        )
        models = sorted({run.name["model"] for column in self.columns for run in column.runs})
        data = sorted({str(run.record.data["source"]) for c in self.columns for run in c.runs})
        found = [f"{', '.join(models)}, {', '.join(data)} data; 95 % intervals over {over}."]
        if tests:
            found.append(
                f"Difference and p-value against the first run ({'; '.join(tests)}), "
                "not corrected for the number of comparisons."
            )
        reasons = dict.fromkeys(cell.note for cell in cells if cell.note)
        return found + [f"≠ not compared: {reason}." for reason in reasons]


# ----------------------------------------------------------------------------------------- comparing


def compare(references: list[str], results: str | Path) -> Comparison:
    """Return the runs, or seeds of a run, that the references name.

    Raises:
        UserError: fewer than two, an unknown one, or none with a measure of the first.
    """
    if len(references) < 2:
        raise UserError("name two runs or more, the one to compare with first; gdo ls lists them")
    groups = [find_seeds(reference, results) for reference in references]
    for reference, runs in zip(references[1:], groups[1:], strict=True):
        if runs[0].path == groups[0][0].path:
            raise UserError(f"{reference}: the first run again; name another one")
    names = distinct_names([runs[0] for runs in groups])
    columns = [Column(names[runs[0].id], runs) for runs in groups]
    measures = list(dict.fromkeys(m for runs in groups for m in _measures(runs[0])))
    rows = {measure: _row(columns, measure) for measure in measures}
    if not any(row[0] and any(row[1:]) for row in rows.values()):
        raise UserError("the runs have no measure in common with the first one")
    return Comparison(columns, rows)


def _measures(run: RunResult) -> list[str]:
    """What is known of each item of a run, the task's score first."""
    parts = dict.fromkeys(prediction["part"] for prediction in run.predictions)
    task = [run.task_score] if TASK in parts and run.task_score in task_scores() else []
    index = [INDEX] if INDEX in run.final else []
    return task + index + [m for m in run.final if m.split("/")[0] in parts and not m.endswith("_se")]


def _row(columns: list[Column], measure: str) -> list[Cell | None]:
    first = columns[0]
    cells = [_cell(column, measure) for column in columns]
    if cells[0] is None:
        return cells
    return [
        cell if cell is None or column is first else _against(first, column, measure, cell)
        for column, cell in zip(columns, cells, strict=True)
    ]


def _cell(column: Column, measure: str) -> Cell | None:
    if any(measure not in _measures(run) for run in column.runs):
        return None
    items = items_of(column.runs[0], measure)
    if len(column.runs) == 1:
        return Cell(len(items.values), items.interval())
    return Cell(len(items.values), over_seeds(column.runs, measure))


def _against(first: Column, second: Column, measure: str, cell: Cell) -> Cell:
    """The cell with its comparison, or with the reason why there is none."""
    ours, theirs = (
        [items_of(run, measure) for run in first.runs],
        [items_of(run, measure) for run in second.runs],
    )
    if any(items.identity != ours[0].identity for items in ours + theirs):
        return replace(cell, note=f"{measure} of {second.title} was measured on other items")
    if len(first.runs) == len(second.runs) == 1:
        return replace(cell, paired=ours[0].paired(theirs[0]))
    before, after = ({run.seed: run.final[measure] for run in c.runs} for c in (first, second))
    by_seed = [dict(zip(scores, items, strict=True)) for scores, items in ((before, ours), (after, theirs))]
    found = _over_the_same_seeds(*by_seed) or seed_difference(before, after)
    reason = f"{second.title} or {first.title} has too few seeds, or no spread over them"
    return replace(cell, paired=found, note="" if found else reason)


def _over_the_same_seeds(before: dict[int, Items], after: dict[int, Items]) -> Paired | None:
    if before.keys() != after.keys() or len(before) < 2:
        return None
    found = change_over_seeds([(before[seed], after[seed]) for seed in before])
    if found is None or found.p is None:
        return None
    return Paired(found.value, found.p, "t, paired by seed and item")


# ------------------------------------------------------------------------------------------- writing


def lines(cell: Cell | None, measure: str) -> list[str]:
    """Return a cell for people: value, interval, difference with its p-value."""
    if cell is None:
        return ["–"]
    form = f".{measure_named(measure).digits}f"
    value = cell.interval
    found = [format(value.value, form) + (" ≠" if cell.note else ""), value.ends(form)]
    if cell.paired:
        p = cell.paired.p
        difference = format(abs(cell.paired.difference), form)
        sign = "−" if cell.paired.difference < 0 else "+"
        found.append(f"{sign}{difference}, " + (f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"))
    return found


def counts(row: list[Cell | None]) -> str:
    """E.g. ``400 items``."""
    return f"{', '.join(dict.fromkeys(str(cell.items) for cell in row if cell))} items"


def as_markdown(found: Comparison) -> str:
    heading = ["measure", *(f"{c.label} (`{c.title}`)" for c in found.columns)]
    body = [
        [f"{measure}, {counts(row)}", *("<br>".join(lines(cell, measure)) for cell in row)]
        for measure, row in found.rows.items()
    ]
    return table(heading, body, words=1) + "\n" + "".join(f"\n{note}\n" for note in found.notes)


def as_csv(found: Comparison) -> str:
    """Return a line for each cell."""
    fields = ("measure", "run", "label", "seeds", "items", "value", "low", "high")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*fields, "difference", "p", "test", "note"])
    for measure, row in found.rows.items():
        for column, cell in zip(found.columns, row, strict=True):
            if cell:
                value, paired = cell.interval, cell.paired
                tested = [paired.difference, paired.p, paired.test] if paired else [None, None, None]
                place = [measure, column.title, column.label, len(column.runs), cell.items]
                writer.writerow([*place, value.value, value.low, value.high, *tested, cell.note])
    return stream.getvalue()
