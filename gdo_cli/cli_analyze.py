"""``gdo analyze …``: parse, call, print. Like the other commands, no logic and nothing heavy at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gdo_cli.cli_shared import ConfigDir, Results, RunName, messages

analyze = typer.Typer(
    name="analyze",
    help="Look inside a finished run and its base model; what is found is kept beside the run.",
    no_args_is_help=True,
)

Again = Annotated[bool, typer.Option("--force", help="Analyse again even if it is done.")]
Seed = Annotated[int, typer.Option(min=0, help="Draws prompts and bootstrap.")]
Shots = Annotated[int, typer.Option(min=2, help="Solved examples in every prompt.")]
Prompts = Annotated[int, typer.Option(min=2, help="Prompts over which the heads' outputs are averaged.")]
EffectPrompts = Annotated[
    int, typer.Option(min=2, help="Prompts with shuffled answers, for the heads' indirect effects.")
]
TopHeads = Annotated[int, typer.Option("--heads", min=1, help="Heads of a function vector.")]


@analyze.command()
def fv(
    run: RunName,
    shots: Shots = 10,
    prompts: Prompts = 100,
    effect_prompts: EffectPrompts = 25,
    heads: TopHeads = 10,
    seed: Seed = 0,
    force: Again = False,
    results: Results = Path("results"),
    config_dir: ConfigDir = None,
) -> None:
    """How much of the base model's function vector for the task is left (paper, Table 1).

    The attention heads that carry the task in few-shot prompts, by their indirect effect: how many of
    the base's are still among them, and the cosine of the vectors that they add up to. Beside it the
    ceiling (the base on other prompts) and the floor (heads drawn at random).
    """
    with messages():
        from gdo_cli.analysis.fv import Options, analyse
        from gdo_cli.analysis.tables import print_function_vectors
        from gdo_cli.results import find_run

        options = Options(shots, prompts, effect_prompts, heads, seed)
        print_function_vectors(analyse(find_run(run, results), options, config_dir, force))
