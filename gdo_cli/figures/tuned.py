"""What a search found: every evaluation by what was learnt and how much of the contract was used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import FixedLocator

from gdo_cli.figures import style
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.metrics import measure_named


@dataclass(frozen=True)
class Model:
    """A model of a search: its run, how far from the base, its score and share of the contract used."""

    run: RunResult
    method: str
    alpha: float
    score: float
    used: float
    kept: bool


@style.styled
def draw(models: Sequence[Model], chosen: Model | None, measure: str) -> style.Drawing:
    """Draw every evaluation (faint), every model that a trial ended with, and the one that was chosen.

    Right of the line the contract is broken, or the items cannot tell. The scale is linear up to twice what
    is tolerated, and logarithmic beyond.

    Args:
        measure: the task's, on validation items.
    """
    figure, ((ax,),) = style.panels(5.2, 3.6)
    sign = 1 if measure_named(measure).higher_is_better else -1
    points: list[dict[str, Any]] = []
    for model in models:
        look = style.line_style(model.method, 0)
        kind = {"method": model.method, "run": model.run.title, "alpha": model.alpha}
        for step, used, score in _evaluations(model.run, measure):
            ax.plot(used, score, look.marker, color=look.color, alpha=0.3, markeredgewidth=0)
            points.append(kind | {"step": step, "used": used, "score": score, "model": False})
        points.append(kind | {"step": None, "used": model.used, "score": sign * model.score, "model": True})
        label = model.run.label if model.alpha == 1 else None
        face = look.color if model.kept else "white"
        ax.plot(model.used, sign * model.score, look.marker, color=look.color, markerfacecolor=face,
                markersize=6, label=label)  # fmt: skip
    if chosen is not None:
        ring: dict[str, Any] = {"markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.5}
        ax.plot(chosen.used, sign * chosen.score, "o", color=style.BLACK, label="chosen", **ring)
    ax.axvline(1.0, color=style.GREY, linestyle="--", linewidth=1, label="the contract")
    ax.set_xscale("symlog", linthresh=2.0, linscale=1.5)
    ax.xaxis.set_major_locator(FixedLocator([-2, -1, 0, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.margins(x=0.06)
    ax.set(xlabel="Lost, as a share of what is tolerated (worst promise, upper bound)")
    ax.set_ylabel(f"New task: {style.name_of(measure)} (validation)")
    style.legend(figure, [ax], "outside right upper", columns=1)
    told = "filled: the contract is kept; faint: evaluations during training"
    style.under(figure, [model.run for model in models], told)
    return style.Drawing(figure, points)


def _evaluations(run: RunResult, measure: str) -> list[tuple[int, float, float]]:
    """Step, share of the contract used and score of each evaluation at which both are known."""
    used = {line["step"]: float(line["used"]) for line in run.metrics if line["kind"] == "contract"}
    found = (line for line in run.evaluations if line["step"] in used and measure in line)
    return [(line["step"], used[line["step"]], float(line[measure])) for line in found]
