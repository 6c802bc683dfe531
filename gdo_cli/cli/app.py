"""The command line: parse, call, print. No logic, and nothing heavy at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gdo_cli.cli.analyze import analyze
from gdo_cli.cli.arguments import (
    Commands,
    ConfigDir,
    Force,
    Json,
    Overrides,
    Results,
    RunName,
    finished,
    print_json,
)
from gdo_cli.cli.finished import compare, list_runs, show
from gdo_cli.cli.keeping import check, demo, init, tune

app = typer.Typer(
    name="gdo",
    cls=Commands,
    help="Fine-tune a language model without losing what it knew, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(analyze)


def print_version(asked: bool) -> None:
    """``gdo --version``: the package's, and the commit where it is a checkout."""
    if asked:
        from gdo_cli.support.provenance import code_state, versions

        state = code_state()
        commit = f" (commit {state['commit'][:12]}{', changed' * state['dirty']})" if state else ""
        typer.echo(f"gdo {versions().get('gdo-cli', '(not installed)')}{commit}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=print_version),
    ] = False,
) -> None:
    """Options that stand before a command."""


@app.command()
def train(overrides: Overrides = None, config_dir: ConfigDir = None, force: Force = False) -> None:
    """Fine-tune one model on one task with one method, measuring retention along the way.

    Groups: model, task, method, data, train, probe, experiment; [b]gdo options[/b]
    lists what each has. A finished run is not repeated; one that was interrupted
    goes on from its last checkpoint.
    """
    from gdo_cli.config.build import load_run

    config = load_run(overrides or [], config_dir)
    from gdo_cli.cli.tables import print_result
    from gdo_cli.experiment.run import run

    print_result(run(config, force))


@app.command()
def sweep(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the points, which are done, and what the rest costs.")
    ] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave impossible points out instead of refusing all.")
    ] = False,
) -> None:
    """Train every point of a grid; what is done already is not repeated, so this also resumes a sweep.

    Sweeps are Hydra's: [b]gdo sweep method=sft,g_freeze 'seed=range(3)'[/b], or an
    experiment that brings its own: [b]gdo sweep experiment=fig2[/b]. All points are
    checked before the first runs. Hydra's launchers run several at a time:
    [b]hydra/launcher=joblib hydra.launcher.n_jobs=2[/b], submitit_local,
    submitit_slurm, ray; [b]hydra/sweeper=optuna[/b] searches for the best score on
    validation items.
    """
    from gdo_cli.config.grid import load_sweep

    points = load_sweep(overrides or [], config_dir)
    if points.impossible and not skip_invalid:
        raise points.refusal()
    from gdo_cli.commands.sweep.run import run_sweep

    if not run_sweep(points, dry_run, skip_invalid):
        raise typer.Exit(1)


app.command()(tune)
app.command()(check)


@app.command()
def evaluate(
    target: Annotated[
        list[str] | None,
        typer.Argument(
            help="A finished run (path or part of its name), or overrides for an untrained model, e.g. "
            "model=gemma3_270m or model=custom model.path=DIR",
            show_default=False,
        ),
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option("--probe", "-p", help="Probes to measure (default: winogrande).")
    ] = None,
    task: Annotated[bool, typer.Option("--task", help="Measure the task's test split too.")] = False,
    items: Annotated[
        int | None, typer.Option(min=1, help="Items of each probe (default: as configured).")
    ] = None,
    json: Json = False,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """Measure a finished run, the base model, or any local checkpoint."""
    from gdo_cli.runs.find import find_target

    run, overrides = find_target(target or [], results)  # before what is slow to import
    from gdo_cli.commands.evaluate import evaluation_config
    from gdo_cli.experiment.reopen import Opened, measure

    config = evaluation_config(run, overrides, probe, items, task, config_dir)
    from gdo_cli.cli.tables import print_metrics

    measured = measure(Opened(config, run, overrides))
    if json:
        print_json({"run": run and run.title, "overrides": overrides, "metrics": measured})
    else:
        print_metrics({"value": measured})


@app.command()
def plot(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Figures (experiments with a figure), then overrides; none: all there are."),
    ] = None,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """Draw figures from finished runs: PNG, PDF, and the CSV of the points."""
    from gdo_cli.commands.plot import plot_all

    plot_all(names or [], results, config_dir)


app.command("ls")(list_runs)
app.command()(show)
app.command()(compare)


@app.command()
def export(
    run: RunName,
    folder: Annotated[Path, typer.Argument(help="New folder for the checkpoint.")],
    form: Annotated[
        str | None,
        typer.Option(
            help="Of a grown model: grown (wider MLPs, exact), folded (G-Train at the original size, exact) "
            "or averaged (G-Freeze at the original size, an approximation that is measured)."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    push: Annotated[str | None, typer.Option(help="Upload it to this hub repository as well.")] = None,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """Write a run as a stock checkpoint that plain transformers loads without gdo."""
    found = finished(run, results)
    from gdo_cli.cli.tables import print_exported, print_metrics
    from gdo_cli.commands.export import cost, push_to_hub
    from gdo_cli.commands.export import export as write

    exported = write(found, folder, form, dtype, config_dir)
    print_exported(exported)
    if not exported.exact:
        print_metrics({"the run": found.final, "exported": cost(found, folder, config_dir)})
    if push:
        typer.echo(push_to_hub(folder, push))


@app.command()
def generate(
    target: Annotated[
        str,
        typer.Argument(help="A run, or a base model: model=smollm2_135m, 'model=custom model.path=DIR'."),
    ],
    prompt: Annotated[
        list[str] | None, typer.Argument(help="Prompts; none: lines of standard input.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 48,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """Greedy completions of a run's model, beside those of the base model."""
    import sys

    from gdo_cli.support.errors import require

    prompts = prompt or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    require(bool(prompts), "no prompt: give one, or lines on standard input")
    require(all(c < "\ud800" or c > "\udfff" for c in "".join(prompts)), "a prompt is not UTF-8")
    run = None if "=" in target else finished(target, results)
    from gdo_cli.cli.tables import print_completions
    from gdo_cli.commands.generate import complete

    overrides = target.split() if run is None else []
    print_completions(complete(prompts, run, overrides, max_new_tokens, config_dir))


@app.command()
def plan(
    overrides: Overrides = None,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a sequence, padding included.")] = 64,
    json: Json = False,
    config_dir: ConfigDir = None,
) -> None:
    """Parameters, memory, operations and time of every method, without loading weights."""
    from gdo_cli.cli.tables import print_plans
    from gdo_cli.commands.plan import plan_all, to_dict
    from gdo_cli.experiment.plan import matrix_rate

    plans, refused = plan_all(overrides or [], length, config_dir)
    if json:
        print_json(to_dict(plans, refused))
    else:
        print_plans(plans, refused, matrix_rate())


@app.command()
def config(overrides: Overrides = None, config_dir: ConfigDir = None) -> None:
    """Print the composed configuration, checked, as YAML."""
    from gdo_cli.config.build import as_yaml

    typer.echo(as_yaml(overrides or [], config_dir), nl=False)


@app.command()
def options(
    group: Annotated[str | None, typer.Argument(help="One group; none: all of them.")] = None,
    config_dir: ConfigDir = None,
) -> None:
    """List the options of the configuration groups."""
    from gdo_cli.cli.tables import print_options
    from gdo_cli.config.options import GROUPS
    from gdo_cli.support.errors import require, require_one_of

    require(not config_dir or config_dir.is_dir(), f"--config-dir {config_dir}: no such directory")
    if group is not None:
        require_one_of("group", group, GROUPS)
    print_options([group] if group else list(GROUPS), config_dir)


app.command()(demo)
app.command()(init)


@app.command()
def doctor(json: Json = False) -> None:
    """Machine, precision, weights, data and hub: what is there, and what to do about the rest."""
    from gdo_cli.commands.doctor import examine, is_ready, to_dict

    findings = examine()
    if json:
        print_json(to_dict(findings))
    else:
        from gdo_cli.cli.tables import print_findings

        print_findings(findings)
    if not is_ready(findings):
        raise typer.Exit(1)
