"""Hydra's launchers and sweepers, running gdo's points. A neighbour of the Hydra border
(:mod:`gdo_cli.config.compose`).

The points of a grid are known and checked by now, so those that are open go straight to the launcher, as
Hydra's basic sweeper would hand them over; searches go through Hydra's multirun.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from time import strftime

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from gdo_cli.config.compose import composed, hydra_messages, hydra_ready
from gdo_cli.config.grid import Engine
from gdo_cli.config.options import quoted
from gdo_cli.support.console import note
from gdo_cli.support.errors import UserError
from gdo_cli.support.files import write_atomically


@dataclass(frozen=True)
class Outcome:
    """What has become of a point.

    Attributes:
        words: its overrides.
        score: what a search goes by (:attr:`RunResult.validation_score`), where the run is finished.
        busy: another process works on the run.
        error: why it failed.
    """

    words: list[str]
    score: float | None = None
    busy: bool = False
    error: str | None = None


Run = Callable[[list[str]], Outcome]


@dataclass(frozen=True)
class _Task:
    """What Hydra calls for every job, maybe in another process: the outcome is left in the sweep's folder."""

    run: Run

    def __call__(self, _: DictConfig) -> float | str:
        hydra = HydraConfig.get()
        outcome = self.run([str(word) for word in hydra.overrides.task])
        content = json.dumps(asdict(outcome), ensure_ascii=False).encode()
        write_atomically(Path(hydra.runtime.output_dir) / f"point-{hydra.job.num}.json", content)
        # A search reads what is no number as a failed trial.
        return str(outcome.error) if outcome.score is None else outcome.score


def launch(engine: Engine, points: list[list[str]], run: Run, results_dir: Path) -> list[Outcome]:
    """Run the points with Hydra's launcher, all of them at once as far as it goes.

    Args:
        run: is given a point's overrides; it must not raise. Launchers pickle it.
        results_dir: what launchers leave behind, such as the logs of their jobs, goes below it.
    Returns:
        An outcome for every point, an error for those whose process was lost.
    Raises:
        UserError: settings of the launcher that it does not take.
    """
    with _folder(results_dir) as folder, _prepared(engine, folder) as (setup, context):
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=_Task(run), config=setup
        )
        lost = None
        try:
            launcher.launch(points, initial_job_idx=0)
        except Exception as error:  # a worker that was killed, a queue that refuses: the launcher's own
            lost = error
        outcomes = _outcomes(folder)
        told = {tuple(outcome.words) for outcome in outcomes}
        reason = f"nothing was heard of it{f' ({_one_line(lost)})' if lost else ''}"
        return outcomes + [Outcome(words, error=reason) for words in points if tuple(words) not in told]


def search(engine: Engine, words: list[str], run: Run, results_dir: Path) -> list[Outcome]:
    """Let Hydra's sweeper choose points by the scores of those before, and run them.

    Returns:
        The outcomes, in the order in which they were tried.
    """
    with _folder(results_dir) as folder, _prepared(engine, folder) as (setup, _):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        _quiet_optuna()
        own = [str(word) for word in setup.hydra.overrides.hydra]
        try:
            hydra.multirun("config", _Task(run), [*words, *own], with_log_configuration=False)
        except (ValueError, RuntimeError):
            if not (tried := _outcomes(folder)) or any(outcome.score is not None for outcome in tried):
                raise
        return _outcomes(folder)


@contextmanager
def _prepared(engine: Engine, folder: Path) -> Iterator[tuple[DictConfig, HydraContext]]:
    """Hydra's configuration for the launcher, and what it needs to compose the jobs."""
    logging.getLogger("hydra_plugins").setLevel(logging.CRITICAL)  # failures are told in gdo's own words
    with hydra_messages(), hydra_ready(engine.config_dir):
        loader = GlobalHydra.instance().config_loader()
        words = [*engine.words, *_own_words(engine, folder)]

        def composer(words: list[str]) -> DictConfig:
            return loader.load_configuration("config", overrides=words, run_mode=RunMode.MULTIRUN)

        setup = composed(words, engine.config_dir, composer)
        yield setup, HydraContext(config_loader=loader, callbacks=Callbacks(setup))


def _own_words(engine: Engine, folder: Path) -> list[str]:
    """Settings of Hydra that gdo wants otherwise, unless they are given."""
    wanted = {
        "hydra/hydra_logging": "none",
        "hydra/job_logging": "none",
        "hydra.output_subdir": "null",
        "hydra.job.chdir": "false",
        "hydra.sweep.dir": quoted(str(folder)),
        "hydra.sweep.subdir": ".",
    }
    if engine.sweeper == "optuna":
        wanted |= {"hydra.sweeper.direction": "maximize", "hydra.sweeper.max_failure_rate": "1.0"}
        if not any(word.startswith("hydra/sweeper/sampler=") for word in engine.words):
            wanted["hydra.sweeper.sampler.seed"] = "0"  # so that the same command tries the same points
        if engine.launcher == "basic":
            wanted["hydra.sweeper.n_jobs"] = "1"  # a batch would only keep it from learning in between
    if engine.launcher == "ray":  # the plugin's own value is refused where there is a cluster already
        wanted["++hydra.launcher.ray.init.object_store_memory"] = "null"
    given = {word.partition("=")[0].lstrip("+~") for word in engine.words}
    return [f"{key}={value}" for key, value in wanted.items() if key.lstrip("+") not in given]


@contextmanager
def _folder(results_dir: Path) -> Iterator[Path]:
    """A folder of the sweep's own; it goes again if nothing is left in it."""
    root = results_dir / "sweeps"
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix=strftime("%Y%m%d-%H%M%S-"), dir=root)).absolute()
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror})") from error
    try:
        yield folder
    finally:
        for file in folder.glob("point-*.json"):
            file.unlink()
        with suppress(OSError):  # not empty: logs of the jobs, or the result of a search
            folder.rmdir()
            root.rmdir()
        if folder.is_dir():
            note(f"logs and what else the jobs left: {folder}")


def _quiet_optuna() -> None:
    with suppress(ImportError):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)


def _outcomes(folder: Path) -> list[Outcome]:
    files = sorted(folder.glob("point-*.json"), key=lambda file: int(file.stem.partition("-")[2]))
    return [Outcome(**json.loads(file.read_text("utf-8"))) for file in files]


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
