"""What the commands print: tables of runs, one run, metrics, options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape
from rich.table import Table

from gdo_cli.commands.ls import Row, cell_text
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats.metrics import INDEX, measure_named
from gdo_cli.stats.uncertainty import Interval, plus_minus
from gdo_cli.support.console import console, key_values

if TYPE_CHECKING:
    from gdo_cli.commands.compare import Comparison
    from gdo_cli.commands.export import Exported
    from gdo_cli.commands.generate import Completion
    from gdo_cli.experiment.plan import Plan


def print_result(run: RunResult) -> None:
    """A finished run in short: start and end side by side."""
    start = run.evaluations[0] if run.evaluations else {}
    print_metrics(run.final, start, title=f"{run.label} on {run.name['task']}, {run.name['model']}")
    console.print(f"[bold]{run.path}[/]", soft_wrap=True)


def print_metrics(
    metrics: dict[str, float],
    start: dict[str, Any] | None = None,
    title: str | None = None,
    before: str = "before, validation",
    after: str = "test",
) -> None:
    """Metrics with their standard errors; beside them, others of the same name (``start``)."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("measure")
    if start:
        table.add_column(before, justify="right")
    table.add_column(after if start else "value", justify="right")
    for key in metrics:
        if key.endswith("_se"):
            continue
        others = [with_error(start, key)] if start else []
        table.add_row(key + _arrow(key), *others, with_error(metrics, key))
    console.print(table)


def with_error(metrics: dict[str, Any], key: str) -> str:
    """``0.812 ± 0.021``, the standard error behind the sign."""
    if key not in metrics:
        return "–"
    return plus_minus(metrics[key], metrics.get(f"{key}_se"))


# Headings short enough for eighty columns, which the source of the data has to leave.
_NARROW = {"trained %": "train%", "task score": "task", RETENTION: "wino", INDEX: "kept", "minutes": "min"}
_NOT_SHOWN = ("data",)
_WORDS = ("run", "model", "task", "method", "layers", "status", "why")


def print_rows(rows: list[Row]) -> None:
    """Rows of ``gdo ls``, whatever their columns."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    shown = [key for key in (rows[0] if rows else ()) if key not in _NOT_SHOWN]
    folds = ("why",) if "why" in shown else _WORDS  # where there is too little room; numbers never
    for key in shown:
        justify: Literal["left", "right"] = "left" if key in _WORDS else "right"
        table.add_column(_NARROW.get(key, key), justify=justify, no_wrap=key not in folds, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell_text(key, row[key])) for key in shown))
    console.print(table)
    if any(isinstance(cell, Interval) and not math.isinf(cell.half) for row in rows for cell in row.values()):
        console.print("± half of a 95 % confidence interval over runs (Student's t)", style="dim")


def print_listing(rows: list[Row], besides: dict[str, int], filtered: bool) -> None:
    """The rows, and how many runs there are beside them that are not done."""
    if rows:
        print_rows(rows)
    else:
        console.print("no such runs" if filtered else "no finished runs; start one with: gdo train")
    if besides:
        counted = ", ".join(f"{n} {status}" for status, n in besides.items())
        console.print(f"besides: {counted} (gdo ls status={','.join(besides)})", style="dim", highlight=False)


def print_run(run: RunResult) -> None:
    """Everything about one run."""
    record = run.record
    parameters, machine, data = record.parameters, record.machine, record.data
    code = record.code
    facts = {
        "run": f"{run.title}  ({run.path})",
        "model": f"{run.name['model']}  {_pairs(record.weights)}",
        "data": f"{data['source']}; {data['validation_items']} validation, {data['test_items']} test items",
        "method": f"{run.label}  {_pairs(record.config['method'])}",
        "layers": _pairs(record.to_dict()["layers"]),
        "parameters": f"{parameters.base:,} base, {parameters.added:,} added, "
        f"{parameters.trainable:,} trained ({100 * parameters.trainable_share:.1f} %)",
        "trained, by module": "  ".join(f"{k} {v:,}" for k, v in parameters.trainable_by_module.items()),
        "training": _pairs(record.config["train"]),
        "time": f"{record.wall_seconds:.0f} s, {record.train_seconds:.0f} s of it training; "
        f"{record.tokens_per_second:,} tokens/s",
        "memory": f"{record.peak_memory_bytes / 2**30:.1f} GiB at the peak",
        "machine": f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {record.precision}",
        "code": f"{code.get('commit', 'unknown')[:12]}{' with changes' if code.get('dirty') else ''}",
        "versions": _pairs(record.versions),
        "weights": str(run.weights or "not kept"),
    }
    if retention := data.get("retention"):
        facts["retention index"] = f"over {_pairs(retention['chances']) or 'nothing'} (guessing); " + (
            f"left out: {_pairs(retention['left_out'])}" if retention["left_out"] else "nothing left out"
        )
    console.print(key_values(facts))
    console.print()
    print_metrics(run.final, run.evaluations[0] if run.evaluations else None)
    _print_ranking(run)


def _print_ranking(run: RunResult) -> None:
    """How far each layer has moved, the furthest first: what ``layers=N`` chooses by."""
    from gdo_cli.runs.ranking import layer_updates, ranking

    moved = layer_updates(run)
    if not moved:
        return
    console.print("\nHow far the layers moved (Frobenius norms; relative: each matrix by its own norm, mean)")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("rank", "layer", *next(iter(moved.values()))):
        table.add_column(column, justify="right")
    for place, layer in enumerate(ranking(run), 1):
        table.add_row(str(place), str(layer), *(f"{value:.4f}" for value in moved[layer].values()))
    console.print(table)


def print_comparison(found: Comparison) -> None:
    """Runs side by side; as many as fit, the first one in every table."""
    from gdo_cli.commands.compare import counts, lines

    texts = {m: ["\n".join(lines(cell, m)) for cell in row] for m, row in found.rows.items()}
    places = {m: f"{m}{_arrow(m)}\n[dim]{counts(row)}[/]" for m, row in found.rows.items()}
    headings = [_heading(column.label, column.title) for column in found.columns]
    widest = max(len(line) for row in texts.values() for text in row for line in text.split("\n"))
    fit = (console.width - max(map(len, found.rows))) // (widest + 1)
    others = list(range(1, len(headings)))
    for start in range(0, len(others), max(1, fit - 1)):
        shown = [0, *others[start : start + max(1, fit - 1)]]
        table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
        table.add_column("measure", no_wrap=True)
        for index in shown:
            table.add_column(headings[index], justify="right", overflow="fold", min_width=widest)
        for measure, row in texts.items():
            table.add_row(places[measure], *(row[index] for index in shown))
            table.add_row()
        console.print(table)
    for note in found.notes:
        console.print(note, style="dim", markup=False, highlight=False)


def _heading(label: str, title: str) -> str:
    """The method, and below it the run's name on lines of their own."""
    task, method, seeds = title.split("/")
    return f"{escape(label)}\n[dim]{method}\n{task}, {seeds}[/]"


def _arrow(measure: str) -> str:
    """A mark where more of it is worse, so that nobody reads a loss as a score."""
    return "" if measure_named(measure).higher_is_better else " ↓"


def print_exported(exported: Exported) -> None:
    """Where the checkpoint is, in what form, and how far its logits are from the run's model."""
    kind = "rounding" if exported.exact else "an approximation"
    console.print(
        f"[bold]{exported.path}[/]  form {exported.form}; logits differ by up to "
        f"{exported.difference:.1e} of the largest ({kind})",
        soft_wrap=True,
    )


def print_completions(completions: list[Completion]) -> None:
    for completion in completions:
        rows = {"prompt": completion.prompt, "base": completion.base.strip()}
        if completion.tuned is not None:
            rows["tuned"] = completion.tuned.strip()
        console.print(key_values({key: escape(value) for key, value in rows.items()}))
        console.print()


def print_plans(plans: list[Plan], refused: dict[str, str], rate: float) -> None:
    """What every method costs; memory in GiB, time on this machine's CPU."""
    from gdo_cli.experiment.plan import EFFICIENCY

    base = plans[0].counts.base
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("method", no_wrap=True)
    for column in ("added", "trained", "%", "weights", "+Adam", "+activ.", "GiB", "TFLOP", "s/step"):
        table.add_column(column, justify="right", no_wrap=True)
    for item in plans:
        parts = (item.weights, item.training, item.activations)
        counts = item.counts
        table.add_row(
            item.method,
            f"{counts.added / 1e6:,.1f}M",
            f"{counts.trainable / 1e6:,.1f}M",
            f"{100 * counts.trainable_share:.1f}",
            *(f"{part / 2**30:.2f}" for part in (*parts, sum(parts))),
            f"{item.flops / 1e12:.2f}",
            f"{item.flops / (EFFICIENCY * rate):.1f}",
        )
    console.print(table)
    console.print(
        f"{base:,} parameters in the base. Weights, gradients with Adam, and activations of one step in GiB; "
        f"time at {100 * EFFICIENCY:.0f} % of this CPU's {rate / 1e12:.2f} TFLOP/s in bf16. What a penalty "
        "needs (l2_sp, kl_to_base, replay) is not counted.",
        style="dim",
    )
    for name, reason in refused.items():
        console.print(f"{name}: {reason}", style="dim", markup=False, soft_wrap=True)


def _pairs(values: dict[str, Any]) -> str:
    return "  ".join(f"{k}={v}" for k, v in values.items() if v is not None and k != "_target_")


def print_options(groups: list[str], config_dir: Path | None) -> None:
    """Options of the groups, with the first line of comment of each file."""
    from gdo_cli.config.options import conf_dir, options

    for group in groups:
        table = Table(title=group, title_justify="left", box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for option in options(group, config_dir):
            files = [root / group / f"{option}.yaml" for root in (config_dir, conf_dir()) if root]
            table.add_row(f"  {option}", _first_comment(next(f for f in files if f.is_file())))
        console.print(table)


def _first_comment(file: Path) -> str:
    lines = file.read_text("utf-8", errors="replace").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""
