"""``gdo compare``: runs side by side, with intervals, and paired tests against the first of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gdo_cli.runs.find import find_seeds
from gdo_cli.runs.items import TASK, change_over_seeds, items_of, over_seeds
from gdo_cli.runs.names import distinct_names
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.intervals import seed_difference
from gdo_cli.stats.metrics import INDEX, measure_named, task_scores
from gdo_cli.stats.outcomes import Interval, Paired
from gdo_cli.support.errors import require
from gdo_cli.support.markdown import csv_text, table


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
    """One measure of a column."""

    items: int  # measured, in each run
    interval: Interval
    paired: Paired | None = None  # with the first column; None in the first, and where there is none
    note: str = ""  # why there is none


@dataclass(frozen=True)
class Comparison:
    """Columns, and by measure a cell for each of them (None where a run does not have the measure)."""

    columns: list[Column]
    rows: dict[str, list[Cell | None]]

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of the numbers."""
        cells = [cell for row in self.rows.values() for cell in row if cell]
        runs = [run for column in self.columns for run in column.runs]
        models = sorted({run.name["model"] for run in runs})
        data = sorted({str(run.record.data["source"]) for run in runs})
        several = ", over seeds too where several (t)" if len(runs) > len(self.columns) else ""
        over = f"items (Wilson; bootstrap for means){several}"
        found = [f"{', '.join(models)}, {', '.join(data)} data; 95 % intervals over {over}."]
        if tests := sorted({cell.paired.test for cell in cells if cell.paired}):
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
    enough = len(references) >= 2
    require(enough, "name two runs or more, the one to compare with first; gdo ls lists them")
    groups = [find_seeds(reference, results) for reference in references]
    for reference, runs in zip(references[1:], groups[1:], strict=True):
        other = runs[0].path != groups[0][0].path
        require(other, f"{reference}: the first run again; name another one")
    names = distinct_names([runs[0] for runs in groups])
    columns = [Column(names[runs[0].id], runs) for runs in groups]
    measures = list(dict.fromkeys(m for runs in groups for m in _measures(runs[0])))
    rows = {measure: [_cell(columns[0], column, measure) for column in columns] for measure in measures}
    shared = any(row[0] and any(row[1:]) for row in rows.values())
    require(shared, "the runs have no measure in common with the first one")
    return Comparison(columns, rows)


def _measures(run: RunResult) -> list[str]:
    """What is known of each item of a run, the task's score first."""
    parts = dict.fromkeys(prediction["part"] for prediction in run.predictions)
    task = [run.task_score] if TASK in parts and run.task_score in task_scores() else []
    index = [INDEX] if INDEX in run.final else []
    return task + index + [m for m in run.final if m.split("/")[0] in parts and not m.endswith("_se")]


def _cell(first: Column, column: Column, measure: str) -> Cell | None:
    def has_measure(column: Column) -> bool:
        return all(measure in _measures(run) for run in column.runs)

    if not has_measure(column):
        return None
    items, interval = len(items_of(column.runs[0], measure).values), over_seeds(column.runs, measure)
    if column is first or not has_measure(first):
        return Cell(items, interval)
    return Cell(items, interval, *_against(first, column, measure))


def _against(first: Column, second: Column, measure: str) -> tuple[Paired | None, str]:
    """The comparison, or the reason why there is none."""
    before, after = ({run.seed: items_of(run, measure) for run in c.runs} for c in (first, second))
    (ours, *_), (theirs, *_) = before.values(), after.values()
    if any(items.identity != ours.identity for items in (*before.values(), *after.values())):
        return None, f"{measure} of {second.title} was measured on other items, or scored by other settings"
    if len(before) == len(after) == 1:
        return ours.paired(theirs), ""
    if before.keys() == after.keys():
        change = change_over_seeds([(before[seed], after[seed]) for seed in before])
        if change and change.p is not None:
            return Paired(change.value, change.p, "t, paired by seed and item"), ""
    scores = ({run.seed: run.final[measure] for run in c.runs} for c in (first, second))
    if found := seed_difference(*scores):
        return found, ""
    return None, f"{second.title} or {first.title} has too few seeds, or no spread over them"


# ------------------------------------------------------------------------------------------- writing


def lines(cell: Cell | None, measure: str) -> list[str]:
    """Return a cell for people: value, interval, difference with its p-value."""
    if cell is None:
        return ["–"]
    form = f".{measure_named(measure).digits}f"
    value = cell.interval
    found = [format(value.value, form) + (" ≠" if cell.note else ""), value.ends(form)]
    if cell.paired:
        p, difference = cell.paired.p, cell.paired.difference
        sign = "−" if difference < 0 else "+"
        found.append(f"{sign}{abs(difference):{form}}, " + (f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"))
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
    untested = dict.fromkeys(field.name for field in fields(Paired))
    return csv_text(
        [
            {"measure": measure, "run": column.title, "label": column.label, "seeds": len(column.runs)}
            | {"items": cell.items, **vars(cell.interval)}
            | (vars(cell.paired) if cell.paired else untested)
            | {"note": cell.note}
            for measure, row in found.rows.items()
            for column, cell in zip(found.columns, row, strict=True)
            if cell
        ]
    )


def to_dict(found: Comparison) -> dict[str, Any]:
    """Return the fields of ``--json``: columns, and by measure a cell for each of them or null."""

    def plain(cell: Cell | None) -> dict[str, Any] | None:
        if cell is None:
            return None
        paired = vars(cell.paired) if cell.paired else None
        return {"items": cell.items, **cell.interval.to_dict(), "paired": paired, "note": cell.note}

    columns = [
        {"label": c.label, "title": c.title, "runs": [str(r.path) for r in c.runs]} for c in found.columns
    ]
    rows = {measure: [plain(cell) for cell in row] for measure, row in found.rows.items()}
    return {"columns": columns, "measures": rows, "notes": found.notes}
