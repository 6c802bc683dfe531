"""Tasks of lm-evaluation-harness, asked of the model that is being trained."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.probes.lm_eval import LMEval
from gdo_cli.stats.outcomes import Outcome
from gdo_cli.support.errors import UserError, first_line, suggest

BATCH = 8  # requests at a time


class Harness:
    """The tasks of one probe, loaded and checked before anything slow.

    Raises:
        UserError: lm-evaluation-harness is not installed, there is no such task, or its data cannot be had.
    """

    def __init__(self, name: str, probe: LMEval) -> None:
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise UserError(
                f"probe={name} needs lm-evaluation-harness: pip install 'gdo-cli[lm-eval]'"
            ) from error
        self.name, self.probe = name, probe
        try:
            self.loaded: Any = TaskManager(include_path=probe.include_path).load(list(probe.tasks))
        except Exception as error:  # its own, the hub's, and those of the data
            raise UserError(
                f"probe.{name}.tasks=[{', '.join(probe.tasks)}]: {first_line(error)}; 'lm-eval ls tasks' "
                "lists tasks; their data come from the hub, unless task files in include_path name others"
            ) from error
        for task in self.loaded["tasks"].values():
            if probe.shots:
                task.set_config(key="num_fewshot", value=probe.shots)
        self.asked = {sub: self._task_of(sub) for sub in self.loaded["tasks"]}

    def _task_of(self, sub: str) -> str:
        """The task or group, of those that the probe names, that a task belongs to."""
        for asked in self.probe.tasks:
            below = [asked]
            for group in below:
                below += self.loaded["group_map"].get(group, [])
            if sub in below:
                return asked
        return self.probe.tasks[0]  # of a tag, which leaves no trace

    def record(self) -> dict[str, Any]:
        """Return where the items are from, and their checksum."""
        from importlib.metadata import version

        digest = hashlib.sha256()
        n = 0
        for task in self.loaded["tasks"].values():
            for doc in list(task.eval_docs)[: self.probe.items]:
                digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
                n += 1
        source = f"lm-eval {version('lm-eval')}"
        return {"source": source, "tasks": list(self.probe.tasks), "items": n, "sha256": digest.hexdigest()}

    def measure(self, lm: AnswerLM, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Outcome]]:
        """Return what each item of all tasks came to, in their order.

        Raises:
            UserError: no item has one of the metrics that the probe counts.
        """
        from lm_eval import evaluate
        from lm_eval.models.huggingface import HFLM

        harness: Any = HFLM(pretrained=lm.model, tokenizer=tokenizer, batch_size=BATCH, device=str(lm.device))
        with lm.autocast():
            found = evaluate(
                harness,
                task_dict=self.loaded,
                limit=self.probe.items,
                bootstrap_iters=0,
                log_samples=True,
                verbosity="ERROR",
            )
        items: dict[tuple[str, int], dict[str, Outcome]] = {}
        seen: set[str] = set()
        for sub, samples in found["samples"].items():
            for sample in samples:
                place = items.setdefault((sub, int(sample["doc_id"])), {})
                for metric in sample["metrics"]:
                    called = metric if sample["filter"] == "none" else f"{metric}_{sample['filter']}"
                    called = called.replace("-", "_")
                    seen.add(called)
                    if called in self.probe.metrics:
                        place[self.probe.measure(self.asked[sub], called)] = Outcome(float(sample[metric]))
        if missing := [metric for metric in self.probe.metrics if metric not in seen]:
            raise UserError(
                f"probe.{self.name}.metrics: the tasks have no {missing[0]}; {suggest(missing[0], seen)}"
            )
        return [outcomes for outcomes in items.values() if outcomes]
