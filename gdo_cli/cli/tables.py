"""What the commands print: tables of runs, one run, metrics, options, and what analyses have found."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from gdo_cli.commands.ls import Row, cell_text
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats.metrics import INDEX, measure_named
from gdo_cli.stats.outcomes import Interval, plus_minus
from gdo_cli.support.console import console, key_values, styled, visible

if TYPE_CHECKING:
    from gdo_cli.commands.compare import Comparison
    from gdo_cli.commands.doctor import Finding
    from gdo_cli.commands.export import Exported
    from gdo_cli.experiment.plan import Plan


def print_table(
    columns: Sequence[str | Text],
    rows: Iterable[Sequence[str | Text]],
    words: Collection[int] = (0,),
    folds: Collection[int] = (),
    min_width: int | None = None,
    **look: Any,
) -> None:
    """Print a table without lines, numbers on the right.

    Args:
        words: places of the columns of words, on the left.
        folds: places of those that are broken, down to ``min_width``, where there is too little room.
    """
    table = Table(**{"box": None, "pad_edge": False, "collapse_padding": True, "header_style": "dim"} | look)
    for place, column in enumerate(columns):
        fold: dict[str, Any] = {"min_width": min_width} if place in folds else {"no_wrap": True}
        table.add_column(column, justify="left" if place in words else "right", overflow="fold", **fold)
    for row in rows:
        table.add_row(*row)
    _print_whole(table, set(folds), min_width or FOLDED)


def _print_whole(table: Table, folds: Collection[int], folded: int) -> None:
    """Print a table; wider than a terminal that has not the room for its numbers, of which Rich would cut
    digits off."""
    needed = []
    for place, column in enumerate(table.columns):
        width = max(console.measure(cell).maximum for cell in (column.header, *column.cells))
        needed.append(min(width, folded) if place in folds else width)
    padding = len(needed) + 1 if table.collapse_padding else 2 * len(needed)
    if sum(needed) + padding > console.width:
        table.width = sum(needed) + padding
        for column, width in zip(table.columns, needed, strict=True):
            column.min_width = width
    console.print(table, crop=False)


def print_heading(heading: object, about: str = "") -> None:
    console.print(
        styled((visible(str(heading)), "bold"), f"  {visible(about)}" if about else ""), soft_wrap=True
    )


def print_remark(text: str) -> None:
    """What a reader has to know of the numbers above."""
    console.print(text, style="dim")


def with_error(metrics: dict[str, Any], key: str) -> str:
    """``0.812 ± 0.021``, the standard error behind the sign."""
    return plus_minus(metrics[key], metrics.get(f"{key}_se")) if key in metrics else "–"


def _with_arrow(measure: str) -> str:
    """A measure, marked where more of it is worse, so that nobody reads a loss as a score."""
    return measure if measure_named(measure).higher_is_better else f"{measure} ↓"


# ------------------------------------------------------------------------------------------- runs


def print_result(run: RunResult) -> None:
    """A finished run in short: start and end side by side."""
    print_metrics(_start_and_end(run), f"{run.label} on {run.name['task']}, {run.name['model']}")
    print_heading(run.path)


def _start_and_end(run: RunResult) -> dict[str, dict[str, Any]]:
    """Return a run's metrics by what they are called; those before training, if they are known, first."""
    start = run.evaluations[0] if run.evaluations else {}
    return {"before, validation": start, "test": run.final} if start else {"value": run.final}


def print_metrics(sides: dict[str, dict[str, Any]], title: str | None = None) -> None:
    """Metrics of the last side with their standard errors; beside them, others of the same name."""
    keys = [key for key in list(sides.values())[-1] if not key.endswith("_se")]
    rows = [[_with_arrow(key), *(with_error(side, key) for side in sides.values())] for key in keys]
    print_table(["measure", *sides], rows, title=title, title_justify="left", collapse_padding=False)


PAPERS, OWN = ": figures of the paper", ": of this project"
FOLDED = 8  # letters that a broken column of words has at least
# Headings short enough for eighty columns, which the source of the data has to leave.
_NARROW = {"trained %": "train%", "task score": "task", RETENTION: "wino", INDEX: "kept", "minutes": "min"}
_NOT_SHOWN = ("data",)
_WORDS = ("run", "model", "task", "method", "layers", "status", "why")


def print_listing(rows: list[Row], besides: dict[str, int], filtered: bool) -> None:
    """Rows of ``gdo ls``, whatever their columns, and how many runs are not done."""
    if rows:
        shown = [key for key in rows[0] if key not in _NOT_SHOWN]
        words = [place for place, key in enumerate(shown) if key in _WORDS]
        folds = [shown.index("why")] if "why" in shown else words  # numbers never
        cells = [[visible(cell_text(key, row[key])) for key in shown] for row in rows]
        print_table([_NARROW.get(key, key) for key in shown], cells, words, folds)
    else:
        console.print("no such runs" if filtered else "no finished runs; start one with: gdo train")
    if any(isinstance(cell, Interval) and not math.isinf(cell.half) for row in rows for cell in row.values()):
        print_remark("± half of a 95 % confidence interval over runs (Student's t)")
    if besides:
        counted = ", ".join(f"{n} {status}" for status, n in besides.items())
        print_remark(f"besides: {counted} (gdo ls status={','.join(besides)})")


def print_run(run: RunResult) -> None:
    """Everything about one run."""
    record = run.record
    parameters, machine, data = record.parameters, record.machine, record.data
    code, training = record.code, record.config["train"]
    if not training.get("optimizer", "adam").startswith("adam"):
        training = {key: value for key, value in training.items() if not key.startswith("adam_")}
    facts = {
        "run": f"{run.title}  ({run.path})",
        "model": f"{run.name['model']}  {_pairs(record.weights)}",
        "data": "; ".join(_rows(data)),
        "method": f"{run.label}  {_pairs(record.config['method'])}",
        "layers": _pairs(record.to_dict()["layers"]),
        "parameters": f"{parameters.base:,} base, {parameters.added:,} added, "
        f"{parameters.trainable:,} trained ({100 * parameters.trainable_share:.1f} %)",
        "trained, by module": "  ".join(f"{k} {v:,}" for k, v in parameters.trainable_by_module.items()),
        "training": _pairs(training),
        "time": f"{record.wall_seconds:.0f} s, {record.train_seconds:.0f} s of it training; "
        f"{record.tokens_per_second:,} tokens/s",
        "memory": f"{record.peak_memory_bytes / 2**30:.1f} GiB at the peak",
        "machine": f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {record.precision}",
        "code": f"{code.get('commit', 'unknown')[:12]}{' with changes' if code.get('dirty') else ''}",
        "versions": _pairs(record.versions),
        "weights": str(run.weights or "not kept"),
    }
    if record.selected:
        facts["ended with"] = _pairs(record.selected)
    if promised := (record.keep.get("tolerances") or {}):
        facts["promised"] = _pairs(promised)
    if signature := data.get(f"{run.task_score.partition('/')[2]}_signature"):
        facts["scored by"] = signature
    if retention := data.get("retention"):
        from gdo_cli.stats.retention import describe_index  # NumPy, which listing runs does without

        facts["retention index"] = describe_index(retention["chances"], retention["left_out"])
    console.print(key_values(facts))
    console.print()
    print_metrics(_start_and_end(run))
    _print_ranking(run)


def _rows(data: dict[str, Any]) -> Iterator[str]:
    """Where a run's rows are from, how many were measured, and what was left out."""
    yield str(data["source"])
    yield f"{data['validation_items']} validation, {data['test_items']} test items"
    for role in ("train", "validation", "test"):
        if n := data.get(f"{role}_too_long"):
            yield f"{n} {role} examples too long"
        if n := data.get(role, {}).get("skipped_rows"):
            yield f"{n} {role} rows unusable"
    for which, n in data.get("repeated_prompts", {}).items():
        yield f"{n} prompts of {which}, too"
    if "note" in data:
        yield str(data["note"])


def _pairs(values: dict[str, Any]) -> str:
    return "  ".join(f"{k}={v}" for k, v in values.items() if v is not None and k != "_target_")


def _print_ranking(run: RunResult) -> None:
    """How far each layer has moved, the furthest first: what ``layers=N`` chooses by."""
    from gdo_cli.runs.ranking import layer_updates, ranking

    moved = layer_updates(run)
    if not moved:
        return
    console.print("\nHow far the layers moved (Frobenius norms; relative: each matrix by its own norm, mean)")
    rows = [
        [str(place), str(layer), *(f"{value:.4f}" for value in moved[layer].values())]
        for place, layer in enumerate(ranking(run), 1)
    ]
    columns = ["rank", "layer", *next(iter(moved.values()))]
    print_table(columns, rows, words=(), collapse_padding=False)


def print_comparison(found: Comparison) -> None:
    """Runs side by side; as many as fit, the first one in every table."""
    from gdo_cli.commands.compare import counts, lines

    headings = []
    for column in found.columns:  # the method, and below it the run's name on lines of their own
        task, method, seeds = column.title.split("/")
        headings.append(styled(f"{column.label}\n", (f"{method}\n{task}, {seeds}", "dim")))
    texts = {m: ["\n".join(lines(cell, m)) for cell in row] for m, row in found.rows.items()}
    widest = max(len(line) for row in texts.values() for text in row for line in text.split("\n"))
    beside = max(1, (console.width - max(map(len, found.rows))) // (widest + 1) - 1)
    for start in range(1, len(headings), beside):
        shown = [0, *range(start, min(start + beside, len(headings)))]
        rows: list[list[str | Text]] = []
        for measure, row in texts.items():
            place = styled(f"{_with_arrow(measure)}\n", (counts(found.rows[measure]), "dim"))
            rows += [place, *(row[index] for index in shown)], []
        columns = ["measure", *(headings[index] for index in shown)]
        folds = range(1, len(columns))
        print_table(columns, rows, folds=folds, min_width=widest, header_style="bold")
    for note in found.notes:
        print_remark(note)


def print_exported(exported: Exported) -> None:
    """Where the checkpoint is, in what form, and how far its logits are from the run's model."""
    kind = "rounding" if exported.exact else "an approximation"
    difference = f"{exported.difference:.1e} of the largest ({kind})"
    print_heading(exported.path, f"form {exported.form}; logits differ by up to {difference}")


def print_completions(completions: list[dict[str, str]]) -> None:
    for texts in completions:
        console.print(key_values(texts))
        console.print()


def print_plans(plans: list[Plan], refused: dict[str, str], rate: float) -> None:
    """What every method costs; memory in GiB, time on the device that runs go to."""
    from gdo_cli.experiment.plan import EFFICIENCY

    optimizer = plans[0].optimizer
    memories = ["weights", f"+{optimizer}", "+activ.", "GiB"]
    columns = ["method", "added", "trained", "%", *memories, "TFLOP", "s/step"]
    rows = []
    for item in plans:
        parts = (item.weights, item.training, item.activations)
        millions = [f"{count / 1e6:,.1f}M" for count in (item.counts.added, item.counts.trainable)]
        memory = [f"{part / 2**30:.2f}" for part in (*parts, sum(parts))]
        time = [f"{item.flops / 1e12:.2f}", f"{item.flops / (EFFICIENCY * rate):.1f}"]
        rows.append([item.method, *millions, f"{100 * item.counts.trainable_share:.1f}", *memory, *time])
    print_table(columns, rows)
    print_remark(
        f"{plans[0].counts.base:,} parameters in the base. Weights, gradients with what {optimizer} keeps, "
        f"and activations of one step in GiB; time at {100 * EFFICIENCY:.0f} % of this device's "
        f"{rate / 1e12:.2f} TFLOP/s in bf16. What a penalty needs (l2_sp, kl_to_base, replay) is not counted."
    )
    for name, reason in refused.items():
        print_remark(f"{name}: {reason}")


def print_options(groups: list[str], config_dir: Path | None) -> None:
    """Options of the groups, each with what it is; the paper's experiments stand apart."""
    from gdo_cli.config.options import about, options

    look: dict[str, Any] = {"title_justify": "left", "show_header": False, "collapse_padding": False}
    for group in groups:
        kinds: dict[str, list[Sequence[str | Text]]] = {}
        for option in options(group, config_dir):
            what = about(group, option, config_dir)
            kind = "" if group != "experiment" else PAPERS if what.startswith("Paper, ") else OWN
            kinds.setdefault(kind, []).append((styled((f"  {option}", "bold")), what))
        for kind, rows in sorted(kinds.items()):
            print_table(["", ""], rows, words=(0, 1), folds=(1,), title=group + kind, **look)


def print_findings(findings: list[Finding]) -> None:
    """What ``gdo doctor`` has found: sign, subject, and what to do."""
    look = {"ok": "green", "missing": "red", "note": "yellow"}
    rows: list[Sequence[str | Text]] = [
        [styled((sign, look[sign])), styled((visible(subject), "bold")), visible(found)]
        for sign, subject, found in findings
    ]
    print_table(["", "", ""], rows, words=(0, 1, 2), folds=(2,), show_header=False, collapse_padding=False)
