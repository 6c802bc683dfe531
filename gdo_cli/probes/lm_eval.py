"""Any task of lm-evaluation-harness as a probe; what asks them is :mod:`gdo_cli.evaluation.harness`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.data.dataset import Dataset
from gdo_cli.probes.base import Probe
from gdo_cli.support.errors import require


@dataclass(frozen=True)
class LMEval(Probe):
    """Tasks of lm-evaluation-harness, asked of the model in memory, item by item.

    ``items`` limits each task; ``shots`` other than 0 takes the place of the tasks' own.

    Attributes:
        tasks: names of tasks or groups, e.g. ``[hellaswag]``.
        metrics: the scores that count, of each task, e.g. ``[acc_norm]``; one that a filter gives has the
            filter's name behind it (``exact_match_flexible_extract``). Of several tasks, the task's stands
            before it.
        include_path: folder of task files of your own.
    """

    identity_name: ClassVar[str] = "gdo_cli.probes.lm_eval.LMEval"
    dataset: Dataset = field(default_factory=lambda: Dataset("lm_eval"))
    tasks: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=lambda: ["acc"])
    include_path: str | None = None
    has_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.tasks), "probe=lm_eval: name tasks, e.g. probe.lm_eval.tasks=[hellaswag]")
        require(bool(self.metrics), "probe=lm_eval: name metrics, e.g. probe.lm_eval.metrics=[acc]")

    @property
    def measures(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.measure(task, metric) for task in self.tasks for metric in self.metrics)

    @property
    def headline(self) -> str:  # type: ignore[override]
        return self.measures[0]

    def measure(self, task: str, metric: str) -> str:
        """Return what a metric of a task is called here."""
        return metric if len(self.tasks) == 1 else f"{task}_{metric}"
