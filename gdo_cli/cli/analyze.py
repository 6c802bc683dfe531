"""``gdo analyze …``: parse, call, print. Like the other commands, no logic and nothing heavy at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gdo_cli.cli.arguments import ConfigDir, Results, RunName, finished

analyze = typer.Typer(
    name="analyze",
    help="Look inside a finished run and its base model; what is found is kept beside the run.",
    no_args_is_help=True,
)

Again = Annotated[bool, typer.Option("--force", help="Analyse again even if it is done.")]


@analyze.command()
def fv(
    run: RunName,
    shots: Annotated[int, typer.Option(min=2, help="Solved examples in every prompt.")] = 10,
    prompts: Annotated[
        int, typer.Option(min=2, help="Prompts over which the heads' outputs are averaged.")
    ] = 100,
    effect_prompts: Annotated[
        int, typer.Option(min=2, help="Prompts with shuffled answers, for the heads' indirect effects.")
    ] = 25,
    heads: Annotated[int, typer.Option(min=1, help="Heads of a function vector.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Draws prompts and bootstrap.")] = 0,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 or auto; in bf16 most heads' effects drown in rounding.")
    ] = "fp32",
    force: Again = False,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """How much of the base model's function vector for the task is left (paper, Table 1).

    The attention heads that carry the task in few-shot prompts, by their indirect
    effect: how many of the base's are still among them, and the cosine of the
    vectors that they add up to. Beside it the ceiling (the base on other prompts)
    and the floor (heads drawn at random).
    """
    found = finished(run, results)
    from gdo_cli.cli.findings import print_function_vectors
    from gdo_cli.commands.analyze.fv import FunctionVectors
    from gdo_cli.commands.analyze.skeleton import analyse

    analysis = FunctionVectors(shots, prompts, effect_prompts, heads, seed, precision)
    print_function_vectors(analyse(found, analysis, config_dir, force))


@analyze.command()
def drift(
    run: RunName,
    prompts: Annotated[
        int, typer.Option(min=2, help="Prompts, of the probes and of the task, to compare states on.")
    ] = 128,
    items: Annotated[int, typer.Option(min=2, help="Items of WinoGrande.")] = 100,
    shots: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Solved examples in front of them; may be repeated (default: 0 5 20)."),
    ] = None,
    force: Again = False,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """How far the run has moved from its base: layer by layer, in its predictions, in its format.

    Hidden states on prompts of the probes and of the task (linear CKA, cosine);
    KL to the base on the task's prompts and on general text; WinoGrande generated
    with few and more solved examples, and with the two options given, which tells
    lost format from lost knowledge.
    """
    found = finished(run, results)
    from gdo_cli.cli.findings import print_drift
    from gdo_cli.commands.analyze.drift import Drift
    from gdo_cli.commands.analyze.skeleton import analyse

    analysis = Drift(prompts, items, tuple(sorted(set(shots))) if shots else Drift.shots)
    print_drift(analyse(found, analysis, config_dir, force))


@analyze.command()
def steer(
    run: RunName,
    layer: Annotated[
        list[int], typer.Option(min=0, help="Layer behind which the vector is added; may be repeated.")
    ],
    scale: Annotated[float, typer.Option(help="What the vector is multiplied by.")] = 1.0,
    prompts: Annotated[int, typer.Option(min=2, help="Zero-shot prompts.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Draws prompts and the control's direction.")] = 0,
    force: Again = False,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """What the function vectors of [b]gdo analyze fv[/b] do when they are added to zero-shot prompts.

    Added at the last token to the residual stream behind a layer, in the run and
    in its base; as a control, a random vector of the same length.
    """
    found = finished(run, results)
    from gdo_cli.cli.findings import print_steering
    from gdo_cli.commands.analyze.skeleton import analyse
    from gdo_cli.commands.analyze.steer import Steering

    analysis = Steering(tuple(sorted(set(layer))), scale, prompts, seed)
    print_steering(analyse(found, analysis, config_dir, force))
