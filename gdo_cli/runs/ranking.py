"""How far the layers have moved in a finished run, and their order by it. Reads run folders; no torch."""

from __future__ import annotations

import math
from statistics import mean
from typing import Any

from gdo_cli.lm.projections import ATTENTION_COLUMN_NAMES, ATTENTION_ROW_NAMES, COLUMN_NAMES, ROW_NAMES
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError


def ranking(pilot: RunResult, by: str = "norm") -> list[int]:
    """Return the layers of a finished run, by the size of their weight update, largest first.

    Args:
        by: ``norm`` (the paper's "magnitude": Frobenius, over all matrices of the layer) or
            ``relative`` (each matrix's update by its own norm, mean over the matrices).
    """
    moved = layer_updates(pilot)
    if not moved:
        raise UserError(f"{pilot.title} holds no update norms; run it again: gdo train --force …")
    return sorted(moved, key=lambda layer: (-moved[layer][by], layer))


def layer_updates(run: RunResult) -> dict[int, dict[str, float]]:
    """Return how far each layer's matrices have moved during a run.

    Returns:
        By layer: ``norm``, Frobenius over all of its matrices; ``relative``, the mean over them of each
        one's update by its own norm; ``mlp`` and ``attention``, the norms over those matrices alone.
    """
    layers: dict[int, list[dict[str, Any]]] = {}
    for row in run.record.updates:
        layers.setdefault(row["layer"], []).append(row)
    return {layer: _summary(rows) for layer, rows in sorted(layers.items())}


def update_parts(run: RunResult) -> list[dict[str, Any]]:
    """Return what each kind of matrix adds to how far its layer has moved.

    Returns:
        Rows of ``layer``, ``module``, ``norm`` (its share of the layer's squared norm, times the norm) and
        ``relative``; both add up over a layer to those of :func:`layer_updates`.
    """
    layers = layer_updates(run)
    parts: dict[tuple[int, str], dict[str, Any]] = {}
    for row in run.record.updates:
        layer, module = row["layer"], row["module"]
        known = [r for r in run.record.updates if r["layer"] == layer and r["relative"] is not None]
        whole = layers[layer]["norm"]
        empty = {"layer": layer, "module": module, "norm": 0.0, "relative": 0.0}
        part = parts.setdefault((layer, module), empty)
        part["norm"] += row["norm"] ** 2 / whole if whole else 0.0
        part["relative"] += (row["relative"] or 0.0) / max(1, len(known))
    return list(parts.values())


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    def norm(kept: list[dict[str, Any]]) -> float:
        return math.sqrt(sum(row["norm"] ** 2 for row in kept))

    relative = [row["relative"] for row in rows if row["relative"] is not None]
    attention = [row for row in rows if row["module"] in (*ATTENTION_COLUMN_NAMES, *ATTENTION_ROW_NAMES)]
    mlp = [row for row in rows if row["module"] in (*COLUMN_NAMES, *ROW_NAMES)]
    return {
        "norm": norm(rows),
        "relative": mean(relative) if relative else 0.0,
        "mlp": norm(mlp),
        "attention": norm(attention),
    }
