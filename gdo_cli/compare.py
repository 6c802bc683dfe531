"""``gdo compare``: runs side by side, with intervals, and paired tests against the first of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gdo_cli.analysis import statistics
from gdo_cli.analysis.statistics import Estimate, Interval, Paired
from gdo_cli.errors import UserError
from gdo_cli.markdown import table
from gdo_cli.results import RunResult, distinct_names, find_seeds

TASK = "task/test"
# What a prediction says of its item, by the task's score.
_TASK_FIELDS = {"task/exact_match": "correct", "task/bleu": "predicted"}


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
        data = sorted({str(run.record["data"]["source"]) for c in self.columns for run in c.runs})
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
    """The runs, or seeds of a run, that the references name.

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
    task = [run.task_score] if TASK in parts and run.task_score in _TASK_FIELDS else []
    return task + [m for m in run.final if m.split("/")[0] in parts and not m.endswith("_se")]


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
    found = _over_the_same_seeds(*by_seed) or statistics.seed_difference(before, after)
    reason = f"{second.title} or {first.title} has too few seeds, or no spread over them"
    return replace(cell, paired=found, note="" if found else reason)


def _over_the_same_seeds(before: dict[int, Items], after: dict[int, Items]) -> Paired | None:
    if before.keys() != after.keys() or len(before) < 2:
        return None
    found = change_over_seeds([(before[seed], after[seed]) for seed in before])
    if found is None or found.p is None:
        return None
    return Paired(found.value, found.p, "t, paired by seed and item")


# ------------------------------------------------------------------------------------------ over seeds


def over_seeds(runs: Sequence[RunResult], measure: str) -> Interval:
    """Mean over runs that differ in their seed alone, its interval over seeds and items.

    Over the seeds alone where a score is of the whole corpus, or the runs were asked about different items.
    """
    items = [items_of(run, measure) for run in runs]
    if items[0].is_corpus or any(other.identity != items[0].identity for other in items):
        return statistics.seed_mean([run.final[measure] for run in runs])
    return statistics.seeds_and_items([found.values for found in items], items[0].weights).interval


def change_over_seeds(pairs: Sequence[tuple[Items, Items]]) -> Estimate | None:
    """Second minus first, a pair for each seed, over seeds and items, which all have to share.

    None for a score of a whole corpus.
    """
    if pairs[0][0].is_corpus:
        return None
    changes = [[b - a for a, b in zip(old.values, new.values, strict=True)] for old, new in pairs]
    return statistics.seeds_and_items(changes, pairs[0][0].weights)


# --------------------------------------------------------------------------------------------- items


@dataclass(frozen=True)
class Items:
    """What a run made of the items of a measure.

    Attributes:
        identity: equal for two runs if and only if they were asked about the same items.
        values: the score of each item; its text for a score of the whole corpus.
        answers: the right texts, for the task.
    """

    identity: Any
    values: list[Any]
    weights: list[float]
    answers: list[str]

    @property
    def is_corpus(self) -> bool:
        return bool(self.values) and isinstance(self.values[0], str)

    @property
    def _kind(self) -> str:
        if self.is_corpus:
            return "corpus"
        return "binary" if set(self.values) <= {0, 1} else "number"

    def interval(self) -> Interval:
        if self._kind == "corpus":
            return statistics.bleu(self.values, self.answers)
        if self._kind == "binary":
            return statistics.accuracy(self.values)
        return statistics.average(self.values, self.weights)

    def difference(self, second: Items) -> Interval:
        """Second minus first on the same items, with its bootstrap interval."""
        if self._kind == "corpus":
            return statistics.bleu_difference(self.values, second.values, self.answers)
        changes = [b - a for a, b in zip(self.values, second.values, strict=True)]
        return statistics.average(changes, self.weights)

    def paired(self, second: Items) -> Paired:
        if self._kind == "corpus":
            return statistics.paired_bleu(self.values, second.values, self.answers)
        if {self._kind, second._kind} == {"binary"}:
            return statistics.mcnemar(self.values, second.values)
        return statistics.permutation(self.values, second.values, self.weights)


def items_of(run: RunResult, measure: str) -> Items:
    """What a run made of each item of a measure that its predictions hold."""
    part, key = measure.split("/")
    is_task = part == "task"
    rows = [p for p in run.predictions if p["part"] == (TASK if is_task else part)]
    rows.sort(key=lambda row: int(row["item"]))
    data, config = run.record["data"], run.record["config"]
    answers = [str(row["answer"]) for row in rows] if is_task else []
    if is_task:
        asked: Any = answers
    else:  # the subset is drawn from the usable rows, which the probe's own settings decide
        asked = {k: v for k, v in config["probe"][part].items() if k not in ("shots", "dataset")}
    checksum = data["test" if is_task else f"probe/{part}"].get("sha256")
    field = _TASK_FIELDS[measure] if is_task else key
    values = [row[field] for row in rows]
    weights = [float(row.get(f"{key}_weight", 1)) for row in rows]
    return Items((checksum, asked, len(rows)), values, weights, answers)


# ------------------------------------------------------------------------------------------- writing


def lines(cell: Cell | None, measure: str) -> list[str]:
    """A cell for people: value, interval, difference with its p-value."""
    if cell is None:
        return ["–"]
    number: Callable[[float], str] = "{:.1f}".format if measure.endswith("bleu") else "{:.3f}".format
    value = cell.interval
    found = [
        number(value.value) + (" ≠" if cell.note else ""),
        f"[{number(value.low)}, {number(value.high)}]",
    ]
    if cell.paired:
        p = cell.paired.p
        difference = number(abs(cell.paired.difference))
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
    """A line for each cell."""
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
