"""What analyses found, as tables."""

from __future__ import annotations

from typing import Any

from gdo_cli.cli.tables import print_heading, print_remark, print_table, with_error
from gdo_cli.stats.outcomes import Interval, plus_minus
from gdo_cli.support.console import console
from gdo_cli.support.files import number


def print_function_vectors(found: dict[str, Any]) -> None:
    """The paper's two numbers between a floor and a ceiling, and the heads that they are about."""
    options, models, floor = found["options"], found["models"], found["chance"]
    print_heading(
        "Function vectors",
        f"{found['run_name']}; {options['heads']} of {found['n_heads']} heads, {options['shots']} shots, "
        f"{options['prompts']} prompts, {options['effect_prompts']} shuffled",
    )
    forms = {"overlap": "g", "cosine_base_heads": ".2f", "cosine_own_heads": ".2f"}
    rows = [
        [name, *(_with_interval(found[key][measure], form) for measure, form in forms.items())]
        for name, key in (("the run", "run"), ("base, other prompts", "ceiling"))
    ]
    rows.append(["random heads", f"{floor['overlap']['value']:.1f}", "", _with_interval(floor["cosine"])])
    print_table(["against the base", "heads shared", "cosine, its heads", "cosine, own heads"], rows)
    print_remark(
        "its heads: the base's in both models; own heads: each model's. In brackets: 95 % of 1,000 bootstrap "
        "draws of prompts\n"
    )
    rows = []
    for name, key in (("the base", "base"), ("the run", "run")):
        right = (f"{models[key]['right_answer'][shots]:.3f}" for shots in ("clean", "shuffled"))
        rows.append([name, *right, " ".join(f"{h['layer']}.{h['head']}" for h in models[key]["heads"])])
    print_table(["model", "right answer", "shuffled", "most effective heads (layer.head)"], rows)
    print_remark(
        "right answer: probability of its first token with the shots as they are, and with their answers "
        "shuffled"
    )


def _with_interval(number: dict[str, float], form: str = ".2f") -> str:
    """``0.95 [0.93, 0.97]``, or the value alone where it has no interval."""
    if "low" not in number:
        return format(number["value"], form)
    return Interval(number["value"], number["low"], number["high"]).with_ends(form)


def print_drift(found: dict[str, Any]) -> None:
    """Layer by layer, then what the model says."""
    hidden, scores = found["hidden"], found["winogrande"]
    places = ", ".join(f"{part['places']} places of {part['texts']} {kind}" for kind, part in hidden.items())
    print_heading("Drift from the base", f"{found['run_name']}; {places}")
    by_layer = zip(*(part[what] for part in hidden.values() for what in ("cka", "cosine")), strict=True)
    rows = [[str(layer), *(f"{number(n):.4f}" for n in numbers)] for layer, numbers in enumerate(by_layer)]
    print_table(["layer", *(f"{what}, {kind}" for kind in hidden for what in ("CKA", "cosine"))], rows)
    console.print()
    kinds = {"task_answer": "task, at the answer", "task_prompt": "task, in the prompt"}
    numbers = {name: found["kl"][key] for key, name in (kinds | {"text": "general text"}).items()}
    rows = [[name, plus_minus(number["value"], number["se"], ".4f")] for name, number in numbers.items()]
    print_table(["KL to the base, nats", "value"], rows)
    console.print()
    rows = [
        [f"{name}, {who}", *(with_error(scores[who][shots], measure) for shots in scores["base"])]
        for measure, name in (("exact_match", "generated"), ("choice", "options given"))
        for who in ("base", "run")
    ]
    print_table(["WinoGrande", *(f"{shots} shots" for shots in scores["base"])], rows)
    print_remark(
        "options given: the right one of the two is the likelier answer to the same prompt (chance 0.5)"
    )


def print_steering(found: dict[str, Any]) -> None:
    """What each vector does behind each layer, the unsteered models first."""
    prompts, scale = found["options"]["prompts"], found["options"]["scale"]
    print_heading("Steering", f"{found['run_name']}; {prompts} zero-shot prompts, scale {scale:g}")
    rows = []
    for row in found["effects"]:
        layer = "" if row["layer"] is None else str(row["layer"])
        length = f"{row['relative_length']:.2g}×" if row.get("relative_length") else ""
        scores = (with_error(row, key) for key in ("probability", "exact_match"))
        rows.append([row["model"], layer, row["added"], length, *scores])
    columns = ["model", "layer", "added", "length", "P(right answer)", "exact match"]
    print_table(columns, rows, words=(0, 2))
    print_remark(
        "length: over that of the hidden state it is added to (--scale); P(right answer): probability of its "
        "first token"
    )
