"""What ``gdo analyze`` prints."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from gdo_cli.cli.tables import with_error
from gdo_cli.stats.uncertainty import Interval, plus_minus
from gdo_cli.support.console import console

KL_NAMES = {
    "task_answer": "task, at the answer",
    "task_prompt": "task, in the prompt",
    "text": "general text",
}


def plain_table(*columns: str) -> Table:
    """Return a table without lines: words on the left, numbers on the right."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def with_interval(number: dict[str, float], form: str = ".2f") -> str:
    """``0.95 [0.93, 0.97]``, or the value alone where it has no interval."""
    if "low" not in number:
        return format(number["value"], form)
    return Interval(number["value"], number["low"], number["high"]).with_ends(form)


def print_function_vectors(found: dict[str, Any]) -> None:
    """The paper's two numbers between a floor and a ceiling, and the heads that they are about."""
    options, models = found["options"], found["models"]
    console.print(
        f"[bold]Function vectors[/]  {found['run_name']}; {options['heads']} of {found['n_heads']} heads, "
        f"{options['shots']} shots, {options['prompts']} prompts, {options['effect_prompts']} shuffled",
        soft_wrap=True,
    )
    table = plain_table("against the base", "heads shared", "cosine, its heads", "cosine, own heads")
    for name, key in (("the run", "run"), ("base, other prompts", "ceiling")):
        part = found[key]
        cosines = (with_interval(part[f"cosine_{whose}_heads"]) for whose in ("base", "own"))
        table.add_row(name, with_interval(part["overlap"], "g"), *cosines)
    floor = found["chance"]
    table.add_row("random heads", f"{floor['overlap']['value']:.1f}", "", with_interval(floor["cosine"]))
    console.print(table)
    console.print(
        "its heads: the base's in both models; own heads: each model's. In brackets: 95 % of 1,000 bootstrap "
        "draws of prompts\n",
        style="dim",
        markup=False,
        soft_wrap=True,
    )
    table = plain_table("model", "right answer", "shuffled", "most effective heads (layer.head)")
    for name, key in (("the base", "base"), ("the run", "run")):
        model = models[key]
        right = model["right_answer"]
        places = " ".join(f"{head['layer']}.{head['head']}" for head in model["heads"])
        table.add_row(name, f"{right['clean']:.3f}", f"{right['shuffled']:.3f}", places)
    console.print(table)
    console.print(
        "right answer: probability of its first token with the shots as they are, and with their answers "
        "shuffled",
        style="dim",
        soft_wrap=True,
    )


def print_drift(found: dict[str, Any]) -> None:
    """Layer by layer, then what the model says."""
    hidden = found["hidden"]
    places = ", ".join(f"{part['places']} places of {part['texts']} {kind}" for kind, part in hidden.items())
    console.print(f"[bold]Drift from the base[/]  {found['run_name']}; {places}", soft_wrap=True)
    table = plain_table("layer", *(f"{what}, {kind}" for kind in hidden for what in ("CKA", "cosine")))
    for layer in range(len(hidden["task"]["cka"])):
        numbers = [part[what][layer] for part in hidden.values() for what in ("cka", "cosine")]
        table.add_row(str(layer), *(f"{number:.4f}" for number in numbers))
    console.print(table)
    console.print()
    table = plain_table("KL to the base, nats", "value")
    for key, name in KL_NAMES.items():
        number = found["kl"][key]
        table.add_row(name, plus_minus(number["value"], number["se"], ".4f"))
    console.print(table)
    console.print()
    shots = list(found["winogrande"]["base"])
    table = plain_table("WinoGrande", *(f"{n} shots" for n in shots))
    for measure, name in (("exact_match", "generated"), ("choice", "options given")):
        for who in ("base", "run"):
            by_shots = found["winogrande"][who]
            table.add_row(f"{name}, {who}", *(with_error(by_shots[n], measure) for n in shots))
    console.print(table)
    console.print(
        "options given: the right one of the two is the likelier answer to the same prompt (chance 0.5)",
        style="dim",
        soft_wrap=True,
    )


def print_steering(found: dict[str, Any]) -> None:
    """What each vector does behind each layer, the unsteered models first."""
    options = found["options"]
    console.print(
        f"[bold]Steering[/]  {found['run_name']}; {options['prompts']} zero-shot prompts, "
        f"scale {options['scale']:g}",
        soft_wrap=True,
    )
    table = plain_table("model", "layer", "added", "length", "P(right answer)", "exact match")
    table.columns[2].justify = "left"
    for row in found["effects"]:
        layer = "" if row["layer"] is None else str(row["layer"])
        scores = (with_error(row, key) for key in ("probability", "exact_match"))
        length = f"{row['relative_length']:.2g}×" if row.get("relative_length") else ""
        table.add_row(row["model"], layer, row["added"], length, *scores)
    console.print(table)
    console.print(
        "length: over that of the hidden state it is added to (--scale); P(right answer): probability of its "
        "first token",
        style="dim",
        markup=False,
        soft_wrap=True,
    )
