"""The commands about what is kept: demo, init, check, tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gdo_cli.cli.arguments import ConfigDir, Json, Markdown, Overrides, Results, finished, print_json

if TYPE_CHECKING:
    from gdo_cli.commands.check import Checked
    from gdo_cli.commands.tune.outcome import Outcome


def demo(results: Results = Path("results")) -> None:
    """Fine-tune the 270M twice on bundled data, in full and by growth, and compare (minutes)."""
    from gdo_cli.commands.demo import HEADING, run_demo

    found = run_demo(results)
    from gdo_cli.cli.tables import print_table
    from gdo_cli.commands.plot import plot_all
    from gdo_cli.support.console import console

    console.print()
    print_table(HEADING, found.rows())
    console.print(f"\n{found.sentence()}\n")
    plot_all(["demo"], results, None)
    console.print("\nNext:")
    for command in found.next_commands():
        console.print(f"  {command}", soft_wrap=True)


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Write a folder with a task, a probe and a contract of your own, to edit and run."""
    from gdo_cli.commands.init import create
    from gdo_cli.support.console import console

    for file in create(folder):
        console.print(str(file), soft_wrap=True)
    console.print(f"\nNext: read {folder / 'README.md'}", soft_wrap=True)


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
    loss on general text. Exit code 0: learnt and kept; 1: not, or the items
    cannot tell; 2: a mistake in what was asked.
    """
    from gdo_cli.support.errors import require

    names = [word for word in target if "=" not in word]
    overrides = [word for word in target if "=" in word]
    require(len(names) in (1, 2), "name a run, or two models: the base and the tuned one")
    run = finished(names[0], results) if len(names) == 1 else None
    from gdo_cli.commands.check import as_markdown, check_models, check_run
    from gdo_cli.support.files import write_for_user

    if run is not None:
        found = check_run(run, overrides, items, config_dir)
    else:
        found = check_models(names[0], names[1], overrides, items, config_dir)
    write_for_user(markdown, as_markdown(found))
    if json:
        print_json(found.to_dict())
    else:
        print_checked(found)
    if not found.is_good:
        raise typer.Exit(1)


def print_checked(found: Checked) -> None:
    """One screen: the task, the promises, the verdict."""
    from gdo_cli.cli.tables import print_heading, print_remark, print_table
    from gdo_cli.commands.check import PROMISE_HEADING, TASK_HEADING, remark, sentence, task_row, verdict_rows
    from gdo_cli.support.console import console, visible

    print_heading(found.title, found.about)
    console.print()
    if found.learnt:
        row = task_row(found.learnt, found.level)
        print_table(TASK_HEADING, [row], words=(0, len(row) - 1), folds=(len(row) - 1,))
        console.print()
    rows = verdict_rows(found.verdicts)
    last = len(PROMISE_HEADING) - 1
    print_table(PROMISE_HEADING, rows, words=(0, last), folds=(last,))
    for measure, texts in found.texts.items():
        console.print(f"\n{measure}: right before, wrong now")
        for text in texts:
            console.print(f"  {visible(text)}", soft_wrap=True)
    console.print()
    console.print(sentence(found), style="bold", soft_wrap=True)
    print_remark(remark(found))


def tune(overrides: Overrides = None, json: Json = False, config_dir: ConfigDir = None) -> None:
    """Find the best model that holds a contract.

    Trials are ordinary runs, chosen by Optuna: [b]gdo tune task=scitail
    keep=default trials=12[/b]. Of [b]method[/b], [b]train.lr[/b] or any other setting
    give one value, several (a,b) or an interval (interval(1e-5,1e-3)); what you
    leave out is searched as conf/tune has it. [b]hours=3[/b] stops starting trials;
    the same command goes on. Exit code 0: a model that holds the contract was
    found; 1: none was.
    """
    from gdo_cli.config.tune import Tuning

    tuning = Tuning(overrides or [], config_dir)
    from gdo_cli.commands.tune.search import search

    candidates = search(tuning)
    from gdo_cli.commands.tune.outcome import conclude, to_dict

    outcome = conclude(tuning, candidates)
    if json:
        print_json(to_dict(outcome))
    else:
        print_outcome(outcome)
    if not outcome.holds:
        raise typer.Exit(1)


def print_outcome(outcome: Outcome) -> None:
    """What was tried, the chosen model, and what to do with it."""
    import shlex

    from gdo_cli.cli.tables import print_heading, print_remark, print_table
    from gdo_cli.commands.check import PROMISE_HEADING, verdict_rows
    from gdo_cli.commands.tune.outcome import folder_of, rows
    from gdo_cli.stats.metrics import measure_named
    from gdo_cli.support.console import console

    form = f".{measure_named(outcome.measure).digits}f"
    print_heading("Models", f"{outcome.measure} on validation items; {folder_of(outcome)}")
    table = [
        [
            str(row["trial"] + 1),
            row["settings"],
            f"{row['alpha']:g}",
            format(row["score"], form),
            f"{row['used']:.2f}",
            f"{row['minutes']:.1f}",
            row["verdict"] + (", chosen" if row["chosen"] else ", Pareto" if row["pareto"] else ""),
        ]
        for row in rows(outcome)
    ]
    heading = ["trial", "settings", "alpha", "score", "used", "min", "contract"]
    print_table(heading, table, words=(1, 6), folds=(1,), min_width=20)
    print_remark(
        "alpha: how far from the base towards the trained weights. used: what was lost, at its upper "
        "bound, as a share of what is tolerated; up to 1 the contract is kept\n"
    )
    where = "items that chose nothing" if outcome.fresh else "the items of the search"
    print_heading("Chosen", f"{outcome.chosen.run.title}; the contract on {where}")
    last = len(PROMISE_HEADING) - 1
    print_table(PROMISE_HEADING, verdict_rows(outcome.verdicts), words=(0, last), folds=(last,))
    if outcome.measure in outcome.test:
        console.print(
            f"\n{outcome.measure} on test items, measured once: {outcome.test[outcome.measure]:{form}}"
        )
    if not outcome.holds:
        worst = max(outcome.chosen.verdicts, key=lambda v: v.lost.high - v.lost.tolerated)
        console.print(
            f"\nNo model holds the contract. This one comes nearest: {worst.promise.measure} would need a "
            f"tolerance of {worst.lost.high:.3g} instead of {worst.lost.tolerated:.3g}, or more items.",
            style="bold",
            soft_wrap=True,
        )
    run = shlex.quote(str(outcome.chosen.run.path))
    console.print(f"\ngdo check {run}\ngdo export {run} FOLDER", soft_wrap=True)
