"""The optional mirror on Weights & Biases. Local files are the source of truth: whatever goes wrong
here is said once and never harms a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gdo_cli.config.run_config import RunConfig
from gdo_cli.support.console import warn
from gdo_cli.support.identity import identity

LIMIT_S = 30  # for each of wandb's waits


class Mirror:
    """Sends a run's numbers to wandb when it is switched on; does nothing otherwise."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.run: Any = None

    def __enter__(self) -> Mirror:
        if self.config.wandb.mode != "disabled":
            self._guarded(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        if self.run is not None:
            self._guarded(self.run.finish)

    def log(self, step: int, values: dict[str, float]) -> None:
        if self.run is not None:
            self._guarded(lambda: self.run.log(values, step=step))

    def _start(self) -> None:
        import wandb

        config, wanted = self.config, self.config.wandb
        limits = dict.fromkeys(("init_timeout", "login_timeout", "finish_timeout"), LIMIT_S)
        self.run = wandb.init(
            project=wanted.project,
            entity=wanted.entity,
            mode=wanted.mode,  # type: ignore[arg-type]
            dir=str(self.folder),
            id=f"{config.id}-{config.seed}",
            name=f"{config.name['task']} {config.name['method']} seed {config.seed}",
            config=identity(config),
            resume="allow",  # a run that was interrupted goes on under its name
            settings=wandb.Settings(**limits, silent=True),
        )

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # wandb raises all manner of things; none may end a run
            warn(f"wandb: {type(error).__name__}: {error}; the run goes on without it")
            self.run = None
