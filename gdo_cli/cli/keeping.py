"""The commands about what is kept: check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdo_cli.cli.arguments import ConfigDir, Json, Markdown, Results, finished

if TYPE_CHECKING:
    from gdo_cli.commands.check import Checked


def check(
    target: Annotated[
        list[str],
        typer.Argument(
            help="A finished run; or two models, the base and the tuned one (folders, adapters, hub names, "
            "options of the group model); then overrides, e.g. keep=strict.",
            show_default=False,
        ),
    ],
    items: Annotated[
        int, typer.Option(min=0, help="Show so many items that the base got right and the model wrong.")
    ] = 0,
    json: Json = False,
    markdown: Markdown = None,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """Did it learn, did it keep what it promised, and is the difference real?

    The contract is the run's own, or [b]keep=default[/b]: the retention index and the
    loss on general text. Exit code 0: learnt and kept; 1: not, or the items cannot
    tell; 2: a mistake in what was asked.
    """
    from gdo_cli.support.errors import require

    names = [word for word in target if "=" not in word]
    overrides = [word for word in target if "=" in word]
    require(len(names) in (1, 2), "name a run, or two models: the base and the tuned one")
    run = finished(names[0], results) if len(names) == 1 else None
    from gdo_cli.commands.check import as_markdown, check_models, check_run
    from gdo_cli.support.files import json_text, write_for_user

    if run is not None:
        found = check_run(run, overrides, items, config_dir)
    else:
        found = check_models(names[0], names[1], overrides, items, config_dir)
    write_for_user(markdown, as_markdown(found))
    if json:
        typer.echo(json_text(found.to_dict(), indent=1))
    else:
        print_checked(found)
    if not found.is_good:
        raise typer.Exit(1)


def print_checked(found: Checked) -> None:
    """One screen: the task, the promises, the verdict."""
    from gdo_cli.cli.tables import print_heading, print_remark, print_table
    from gdo_cli.commands.check import PROMISE_HEADING, TASK_HEADING, promise_rows, remark, sentence, task_row
    from gdo_cli.support.console import console, visible

    print_heading(found.title, found.about)
    console.print()
    if found.learnt:
        row = task_row(found.learnt, found.level)
        print_table(TASK_HEADING, [row], words=(0, len(row) - 1), folds=(len(row) - 1,))
        console.print()
    rows = promise_rows(found)
    last = len(PROMISE_HEADING) - 1
    print_table(PROMISE_HEADING, rows, words=(0, last), folds=(last,))
    for measure, texts in found.texts.items():
        console.print(f"\n{measure}: right before, wrong now")
        for text in texts:
            console.print(f"  {visible(text)}", soft_wrap=True)
    console.print()
    console.print(sentence(found), style="bold", soft_wrap=True)
    print_remark(remark(found))
