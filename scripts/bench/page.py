"""The benchmark's page and figure, from the JSON files that the measurements wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from gdo_cli.figures.style import BLUE, ORANGE, RC, panels
from gdo_cli.support.markdown import table

Row = dict[str, Any]
FILES = ("peers", "scoring", "arithmetic", "scaling", "start", "methods")
# What each row was to reach.
GOALS = {
    "SFT step": "8×",
    "G-Freeze step, all layers": "8×",
    "G-Freeze step, naive growth": "8×, memory ≤ 0.5",
    "G-Freeze step, top 5, against SFT": "memory ≤ 0.5",
    "WinoGrande by likelihood, 1,267 items": "3×, same choices",
    "WinoGrande by likelihood, in fp32": "same choices",
    "few-shot exact match, 10 examples": "8×, same answers",
    "few-shot exact match, in fp32": "same answers",
    "g_freeze step": "≥ 45 %",
    "gdo --help": "< 0.3",
    "second start of the 270M": "< 3",
    "gdo plot": "< 15",
}
PEERS = {
    "trl": "TRL SFTTrainer",
    "trl_lora": "TRL SFTTrainer with PEFT LoRA r=16",
    "naive_growth": "masked growth in transformers' Trainer",
    "gdo method=sft": "gdo's own SFT",
    "lm_eval": "lm-evaluation-harness HFLM",
    "generate": "transformers' generate",
}


def write_page(folder: Path) -> None:
    """Write README.md and scaling.png from what there is."""
    records = {
        name: json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in FILES
        if (folder / f"{name}.json").is_file()
    }
    parts = ["# Benchmarks", *(_SECTIONS[name](record) for name, record in records.items())]
    if "scaling" in records:
        draw_scaling(records["scaling"]["rows"], folder / "scaling.png")
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def _machine(record: Row) -> str:
    machine, code = record["machine"], record["code"]
    words = f"{machine['cpu']}, {machine['cores']} thread{'s' if machine['cores'] > 1 else ''}, "
    words += f"torch {record['versions']['torch']}, commit {code['commit'][:8]}"
    return words + (f"; gdo with `{' '.join(record['overrides'])}`" if record["overrides"] else "")


def _peers(record: Row) -> str:
    rows = [
        [row["work"], PEERS[row["peer"]], *_ratio(row), f"{row['memory_ratio']:.2f}", GOALS[row["work"]]]
        for row in record["rows"]
    ]
    head = ["work", "peer", "gdo s", "peer s", "ratio (min to max)", "memory, gdo / peer", "goal"]
    text = (
        "Gemma 3 270M, SciTail's batches of 16 as gdo shows them, bf16, three steps each in turn; medians. "
    )
    return f"## Training against peers\n\n{text}{_machine(record)}.\n\n{table(head, rows)}"


def _scoring(record: Row) -> str:
    rows = [
        [
            row["work"],
            PEERS[row["peer"]],
            *_ratio(row),
            f"{row['differing']} of {row['items']}",
            GOALS[row["work"]],
        ]
        for row in record["rows"]
    ]
    head = ["work", "peer", "gdo s", "peer s", "ratio (min to max)", "items that differ", "goal"]
    text = "Part by part in turn, a tenth of the items each; medians of a part. "
    return f"## Scoring against peers\n\n{text}{_machine(record)}.\n\n{table(head, rows)}"


def _ratio(row: Row) -> list[str]:
    ratio = row["ratio"]
    seconds = [f"{row[side]['median']:.2f}" for side in ("gdo", "other")]
    return [*seconds, f"{ratio['median']:.1f}× ({ratio['min']:.1f} to {ratio['max']:.1f})"]


def _arithmetic(record: Row) -> str:
    kinds = list(dict.fromkeys(kind for row in record["rows"] for kind in row["time_by_kind"]))
    rows = [
        [
            row["work"],
            f"{row['flops']['median'] / 1e12:.2f}",
            f"{row['seconds']['median']:.2f}",
            f"{row['matrix_rate'] / 1e12:.2f}",
            f"{row['share_of_rate']:.0%}",
            *(f"{row['time_by_kind'].get(kind, 0):.0%}" for kind in kinds),
        ]
        for row in record["rows"]
    ]
    head = ["work", "TFLOP", "s", "machine's TFLOP/s", "share of it reached", *kinds]
    text = "Operations of the matrix products, and the processor's time by kind of work. "
    return f"## Arithmetic\n\n{text}{_machine(record)}.\n\n{table(head, rows)}"


def _scaling(record: Row) -> str:
    rows = [
        [row["axis"], f"{row['value']}", f"{row['median']:.3g}", f"{row['peak_bytes'] / 2**30:.1f}"]
        for row in record["rows"]
    ]
    drawn = table(["axis", "value", "s", "GiB"], rows)
    text = f"A G-Freeze step, and an item of WinoGrande. {_machine(record)}."
    return f"## Scaling\n\n{text}\n\n![Scaling](scaling.png)\n\n{drawn}"


def _start(record: Row) -> str:
    rows = [
        [row["work"], *(f"{row[key]:.2f}" for key in ("median", "min", "max")), GOALS.get(row["work"], "–")]
        for row in record["rows"]
    ]
    text = "Whole processes, files in the cache; seconds. "
    return (
        f"## Start\n\n{text}{_machine(record)}.\n\n{table(['until', 'median', 'min', 'max', 'goal'], rows)}"
    )


def _methods(record: Row) -> str:
    rows = [
        [f"`{row['overrides']}`", f"{row['median']:.2f}", f"{row['peak_bytes'] / 2**30:.1f}"]
        for row in sorted(record["rows"], key=lambda row: row["median"])
    ]
    return f"## Methods\n\nA step of each. {_machine(record)}.\n\n{table(['method', 's', 'GiB'], rows)}"


_SECTIONS = {
    "peers": _peers,
    "scoring": _scoring,
    "arithmetic": _arithmetic,
    "scaling": _scaling,
    "start": _start,
    "methods": _methods,
}


def draw_scaling(rows: list[Row], path: Path) -> None:
    """Seconds (left) and GiB (right) along every axis."""
    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    with rc_context(RC):
        figure, (axes,) = panels(2.6 * len(axes_names), 2.6, 1, len(axes_names))
        for ax, name in zip(axes, axes_names, strict=True):
            points = [row for row in rows if row["axis"] == name]
            x = [row["value"] for row in points]
            ax.plot(x, [row["median"] for row in points], color=BLUE, marker="o")
            ax.fill_between(x, [p["min"] for p in points], [p["max"] for p in points], color=BLUE, alpha=0.15)
            ax.set(xlabel=name, ylim=(0, None))
            ax.set_ylabel("s an item" if name == "examples shown" else "s a step", color=BLUE)
            memory = ax.twinx()
            memory.plot(
                x, [p["peak_bytes"] / 2**30 for p in points], color=ORANGE, marker="s", linestyle="--"
            )
            memory.set_ylabel("GiB", color=ORANGE)
            memory.set(ylim=(0, None))
            memory.grid(visible=False)
        figure.savefig(path)
