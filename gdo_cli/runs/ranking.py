"""How far the layers have moved in a finished run, and their order by it. Reads run folders; no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import mean
from typing import Any

from gdo_cli.lm.projections import ATTENTION_COLUMN_NAMES, ATTENTION_ROW_NAMES, COLUMN_NAMES, ROW_NAMES
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import require

MLP, ATTENTION = (*COLUMN_NAMES, *ROW_NAMES), (*ATTENTION_COLUMN_NAMES, *ATTENTION_ROW_NAMES)


def ranking(pilot: RunResult, by: str = "norm") -> list[int]:
    """Return the layers of a finished run, by the size of their weight update, largest first.

    Args:
        by: ``norm`` (the paper's "magnitude": Frobenius, over all matrices of the layer) or
            ``relative`` (each matrix's update by its own norm, mean over the matrices).
    """
    moved = layer_updates(pilot)
    require(bool(moved), f"{pilot.title} holds no update norms; run it again: gdo train --force …")
    return sorted(moved, key=lambda layer: (-moved[layer][by], layer))


def layer_updates(run: RunResult) -> dict[int, dict[str, float]]:
    """Return how far each layer's matrices have moved during a run.

    Returns:
        By layer: ``norm``, Frobenius over all of its matrices; ``relative``, the mean over them of each
        one's update by its own norm; ``mlp`` and ``attention``, the norms over those matrices alone.
    """
    return {
        layer: {
            "norm": _norm(rows),
            "relative": mean(_relative(rows) or [0.0]),
            "mlp": _norm(row for row in rows if row["module"] in MLP),
            "attention": _norm(row for row in rows if row["module"] in ATTENTION),
        }
        for layer, rows in _by_layer(run).items()
    }


def update_parts(run: RunResult) -> list[dict[str, Any]]:
    """Return what each kind of matrix adds to how far its layer has moved.

    Returns:
        Rows of ``layer``, ``module``, ``norm`` (its share of the layer's squared norm, times the norm) and
        ``relative``; both add up over a layer to those of :func:`layer_updates`.
    """
    parts: dict[tuple[int, str], dict[str, Any]] = {}
    for layer, rows in _by_layer(run).items():
        whole, known = _norm(rows), max(1, len(_relative(rows)))
        for row in rows:
            empty = {"layer": layer, "module": row["module"], "norm": 0.0, "relative": 0.0}
            part = parts.setdefault((layer, row["module"]), empty)
            part["norm"] += row["norm"] ** 2 / whole if whole else 0.0
            part["relative"] += (row["relative"] or 0.0) / known
    return list(parts.values())


def _by_layer(run: RunResult) -> dict[int, list[dict[str, Any]]]:
    layers: dict[int, list[dict[str, Any]]] = {}
    for row in run.record.updates:
        layers.setdefault(row["layer"], []).append(row)
    return dict(sorted(layers.items()))


def _norm(rows: Iterable[dict[str, Any]]) -> float:
    return math.sqrt(sum(row["norm"] ** 2 for row in rows))


def _relative(rows: Iterable[dict[str, Any]]) -> list[float]:
    """Updates by the matrix's own norm, where it has one."""
    return [row["relative"] for row in rows if row["relative"] is not None]
