"""The study behind a search: Optuna's own, in a file that several processes may share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gdo_cli.config.tune import Tuning, Values
from gdo_cli.runs.folder import RunFolder
from gdo_cli.support.errors import UserError, first_line

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import Trial, TrialState
except ImportError as error:
    raise UserError("gdo tune needs Optuna 5: pip install 'gdo-cli[tune]'") from error

RUN, WHY = "run", "why"  # what a trial says of itself


class Study:
    """Asks for points and is told what came of them.

    A trial whose process has died is failed and its point asked again: its run then goes on from its
    checkpoint.

    Raises:
        UserError: the storage cannot be read, or holds the study of another search.
    """

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self.file = Path(tuning.config.storage or tuning.folder / "study.log")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(logging.ERROR)
        try:
            self.study = optuna.create_study(
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(self.file))),
                study_name="gdo",
                direction="maximize",
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(seed=tuning.config.seed, n_startup_trials=5),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
            )
            known = self.study.user_attrs.get("search")
        except Exception as error:  # a file of anything breaks anywhere
            raise UserError(
                f"tune.storage={self.file}: no study can be read from it ({first_line(error)}); move it away "
                "to begin again (finished runs are not repeated)"
            ) from error
        if known is None:
            self.study.set_user_attr("search", tuning.name)
            for point in tuning.usual():
                self.study.enqueue_trial(point)
        elif known != tuning.name:
            raise UserError(
                f"tune.storage={self.file}: holds another search ({known}, this is {tuning.name}): "
                "its task, contract or space differ; name another file, or leave tune.storage out"
            )

    def revive(self) -> None:
        """Fail the trials whose processes have died, and queue their points again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            path = trial.user_attrs.get(RUN)
            if path is not None and not RunFolder(Path(path)).is_held():
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params)

    @property
    def begun(self) -> int:
        """How many trials there are, failed ones apart."""
        counted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return len(self.study.get_trials(deepcopy=False, states=counted))

    def ask(self) -> tuple[Trial, Values]:
        """Return a new trial and its point: values by the names of dimensions."""
        trial = self.study.ask()
        values: Values = {}
        point: Values = {}
        for d in self.tuning.space:
            if not d.counts(values):
                continue
            if d.choices is not None:
                value: Any = trial.suggest_categorical(d.name, d.choices)
            else:
                value = trial.suggest_float(d.name, d.low or 0.0, d.high or 0.0, log=d.log)
            values[d.key] = point[d.name] = value
        return trial, point

    def tell(self, trial: Trial, value: float, over: float) -> None:
        """End a trial with its score, and by how much its contract was broken (0 or less: held)."""
        trial.set_constraint("contract", over)
        self.study.tell(trial, value)

    def prune(self, trial: Trial) -> None:
        """End a trial that was doing worse than others at the same step."""
        self.study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: Trial, why: str) -> None:
        """End a trial that came to nothing."""
        trial.set_user_attr(WHY, why)
        self.study.tell(trial, state=TrialState.FAIL)

    def failures(self) -> dict[int, str]:
        """Return why trials came to nothing, by number."""
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return {trial.number: str(trial.user_attrs[WHY]) for trial in failed if WHY in trial.user_attrs}

    def runs(self) -> dict[int, Path]:
        """Return the run folders of all trials that were not failed, by number."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return {trial.number: Path(trial.user_attrs[RUN]) for trial in trials if RUN in trial.user_attrs}
