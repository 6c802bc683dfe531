"""The commands about finished runs: ls, show, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gdo_cli.cli.arguments import Csv, Json, Markdown, Results, RunName, finished, print_json


def list_runs(
    filters: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which runs: key=value,value of model, task, method, layers, seed, status (done, running, "
            "failed, unfinished) or any setting, e.g. method=g_* train.lr=1e-4 status=failed",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="A row for each combination of these keys, e.g. method,layers: means.")
    ] = None,
    means: Annotated[
        bool, typer.Option("--mean", help="A row for all seeds of a run: means with 95 % intervals.")
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", "-m", help="Measures beside the task's score (default: winogrande/exact_match)."
        ),
    ] = None,
    markdown: Markdown = None,
    table: Csv = None,
    json: Json = False,
    results: Results = Path("results"),
) -> None:
    """Table of runs: filtered, grouped, averaged over seeds."""
    from gdo_cli.cli.tables import print_listing
    from gdo_cli.commands.ls import as_csv, as_markdown, as_plain, listed, mean_rows, measures, run_rows
    from gdo_cli.support.files import write_for_user

    runs, others = listed(results, filters or [])
    metrics = measures(runs, metric)
    rows = mean_rows(runs, by, metrics) if by or means else run_rows(runs, metrics)
    write_for_user(markdown, as_markdown(rows))
    write_for_user(table, as_csv(rows))
    if json:
        print_json({"runs": [as_plain(row) for row in rows], "others": others})
    else:
        print_listing(rows, others, bool(filters))


def show(run: RunName, json: Json = False, results: Results = Path("results")) -> None:
    """All that is known of one run."""
    from gdo_cli.cli.tables import print_run

    found = finished(run, results)
    if json:
        print_json({"title": found.title, "path": str(found.path)} | found.record.to_dict())
    else:
        print_run(found)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Paths of runs, or parts of their names; the first is the one to compare with. A name that "
            "the seeds of a run share stands for their mean."
        ),
    ],
    markdown: Markdown = None,
    table: Csv = None,
    json: Json = False,
    results: Results = Path("results"),
) -> None:
    """Finished runs side by side: scores with intervals, and paired tests on the same items."""
    from gdo_cli.cli.tables import print_comparison
    from gdo_cli.commands.compare import as_csv, as_markdown, to_dict
    from gdo_cli.commands.compare import compare as compare_runs
    from gdo_cli.support.files import write_for_user

    found = compare_runs(runs, results)
    write_for_user(markdown, as_markdown(found))
    write_for_user(table, as_csv(found))
    if json:
        print_json(to_dict(found))
    else:
        print_comparison(found)
