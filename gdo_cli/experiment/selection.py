"""Which evaluation's weights a run ends with, and whether it goes on: ``select`` and ``stop``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.evaluator import Evaluation
from gdo_cli.evaluation.untouched import Untouched
from gdo_cli.evaluation.verdict import Verdict, hold, judge, share_used
from gdo_cli.runs.folder import SELECTED, RunFolder
from gdo_cli.stats.metrics import INDEX, Metric
from gdo_cli.support.console import note, warn
from gdo_cli.support.errors import RunFailed
from gdo_cli.support.files import write_atomically


class Selection:
    """Judges every evaluation after the start, and keeps the weights of the one that the run ends with.

    The weights lie in the run's folder, in a file named by its step, so that a run that goes on from a
    checkpoint finds those which were the best ones then.

    Attributes:
        step: of the evaluation that the run would end with now; None before the first one, and where the
            last one is taken in any case.
        stopped: why training ends here; None while it goes on.
    """

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self.rule, self.stop, self.keep = config.select, config.stop, config.keep
        self.metric: Metric = config.task.metric
        self.folder = folder
        self.promises = [
            promise
            for promise in config.keep.promises(config.probe)
            if promise.measure.partition("/")[0] not in config.probe
            or config.probe[promise.measure.partition("/")[0]].throughout
        ]
        self.step: int | None = None
        self.score: float | None = None
        self.kept: str | None = None
        self.stopped: str | None = None
        self.since = 0  # evaluations since a better one
        self.checkpointed: int | None = None  # the step whose weights the last checkpoint speaks of

    # ------------------------------------------------------------------------------ what a checkpoint keeps

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        self.checkpointed = self.step
        return {name: getattr(self, name) for name in ("step", "score", "kept", "stopped", "since")}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave.

        Raises:
            RunFailed: the weights that it speaks of are no longer there.
        """
        for name, value in state.items():
            setattr(self, name, value)
        self.checkpointed = self.step
        if self.step is not None and not self._file(self.step).is_file():
            raise RunFailed(f"{self._file(self.step)} is gone, the best weights so far; begin again: --force")

    # ------------------------------------------------------------------------------------------ judging

    def see(self, step: int, evaluation: Evaluation, untouched: Untouched, model: nn.Module) -> float:
        """Judge an evaluation by the contract and by the task's score; return that, the higher the better."""
        verdicts = self._judge(evaluation, untouched)
        held = hold(verdicts) if verdicts else None
        if verdicts:
            lost = {v.promise.measure: round(v.lost.value, 6) for v in verdicts}
            used = round(share_used(verdicts), 6)
            self.folder.log({"kind": "contract", "step": step, "verdict": held, "used": used, "lost": lost})
        sign = 1 if self.metric.higher_is_better else -1
        score = sign * float(evaluation.metrics[self.metric.key])
        if self.score is None or self._merit(held, score) > self._merit(self.kept, self.score):
            self.score, self.kept, self.since = score, held, 0
            if self.rule != "last":
                self._hold_weights(step, model)
        else:
            self.since += 1
        if self.stop.lost and held == "lost":
            self.stopped = f"the contract is broken after step {step}"
        elif self.stop.patience and self.since >= self.stop.patience:
            self.stopped = f"no better evaluation in the last {self.since}"
        return score

    def _merit(self, held: str | None, score: float) -> tuple[bool, float]:
        """What evaluations are compared by: whether the contract is kept, if that counts, then the score."""
        return self.rule == "kept" and held == "kept", score

    def _judge(self, evaluation: Evaluation, untouched: Untouched) -> list[Verdict]:
        before, after = untouched.predictions, evaluation.predictions
        decides = self.rule == "kept" or self.stop.lost
        # A base near guessing has no index to keep; that ends a run only where it would decide something.
        promises = [p for p in self.promises if decides or p.measure != INDEX or untouched.chances]
        return judge(promises, untouched.chances, before, after, self.keep.level)

    # ------------------------------------------------------------------------------------------ weights

    def _file(self, step: int) -> Path:
        return self.folder.path / SELECTED.format(step)

    def _hold_weights(self, step: int, model: nn.Module) -> None:
        from safetensors.torch import save

        trained = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        write_atomically(self._file(step), save(trained))
        self.step = step
        for file in self.folder.path.glob(SELECTED.format("*")):
            if file not in [self._file(s) for s in (step, self.checkpointed) if s is not None]:
                file.unlink()

    def restore(self, last: int, model: nn.Module) -> bool:
        """Put the selected weights back and return True, if they are not those of the last step."""
        if self.rule == "kept" and self.kept != "kept":
            warn(
                f"select=kept: no evaluation held the contract, the best of them is taken (step {self.step}: "
                f"{self.kept}); lower train.lr, or see gdo check"
            )
        if self.step is None or self.step == last:
            return False
        from safetensors.torch import load_file

        weights = load_file(self._file(self.step))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(weights[name])
        note(f"select={self.rule}: the weights of step {self.step} are taken")
        return True

    def record(self) -> dict[str, Any]:
        """Return what was chosen and why training ended, for the record of the run; nothing by default."""
        chosen = {"rule": self.rule, "step": self.step, "verdict": self.kept} if self.step is not None else {}
        return chosen | ({"stopped": self.stopped} if self.stopped else {})
