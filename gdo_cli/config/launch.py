"""Hydra's launchers and sweepers, running gdo's points.

The points of a grid are known and checked by now, so those that are open go straight to the launcher, as
Hydra's basic sweeper would hand them over; for a search, Hydra's sweeper chooses them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from time import strftime
from typing import Any

from omegaconf import DictConfig

from gdo_cli.config.compose import Callbacks, Composer, HydraConfig, HydraContext, Plugins, RunMode
from gdo_cli.config.grid import Sweep
from gdo_cli.config.options import quoted
from gdo_cli.support.console import note
from gdo_cli.support.errors import UserError
from gdo_cli.support.files import json_text, write_atomically


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


def _job(run: Run, _: DictConfig) -> float | str:
    """What Hydra calls for every job, maybe in another process: the outcome is left in the sweep's folder."""
    hydra = HydraConfig.get()
    outcome = run([str(word) for word in hydra.overrides.task])
    content = json_text(asdict(outcome)).encode()
    write_atomically(Path(hydra.runtime.output_dir) / f"point-{hydra.job.num}.json", content)
    # A search reads what is no number as a failed trial.
    return str(outcome.error) if outcome.score is None else outcome.score


def launch(sweep: Sweep, points: list[list[str]], run: Run, results_dir: Path) -> list[Outcome]:
    """Run the points with Hydra's launcher, all of them at once as far as it goes.

    Args:
        run: is given a point's overrides; it must not raise. Launchers pickle it.
        results_dir: what launchers leave behind, such as the logs of their jobs, goes below it.
    Returns:
        An outcome for every point, an error for those whose process was lost.
    Raises:
        UserError: settings of the launcher that it does not take.
    """
    with _folder(results_dir) as folder, _prepared(sweep, folder, run) as setup:
        launcher = Plugins.instance().instantiate_launcher(**setup)
        lost = ""
        try:
            launcher.launch(points, initial_job_idx=0)
        except Exception as error:  # a worker that was killed, a queue that refuses: the launcher's own
            lost = f" ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        outcomes = _outcomes(folder)
        told = {tuple(outcome.words) for outcome in outcomes}
        missing = [words for words in points if tuple(words) not in told]
        return outcomes + [Outcome(words, error=f"nothing was heard of it{lost}") for words in missing]


def search(sweep: Sweep, words: list[str], run: Run, results_dir: Path) -> list[Outcome]:
    """Let Hydra's sweeper choose points by the scores of those before, and run them.

    Returns:
        The outcomes, in the order in which they were tried.
    """
    with _folder(results_dir) as folder, _prepared(sweep, folder, run) as setup:
        with suppress(ImportError):
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            Plugins.instance().instantiate_sweeper(**setup).sweep(arguments=words)
        except (ValueError, RuntimeError):
            if not (tried := _outcomes(folder)) or any(outcome.score is not None for outcome in tried):
                raise
        return _outcomes(folder)


@contextmanager
def _prepared(sweep: Sweep, folder: Path, run: Run) -> Iterator[dict[str, Any]]:
    """What Hydra makes launchers and sweepers of."""
    logging.getLogger("hydra_plugins").setLevel(logging.CRITICAL)  # failures are told in gdo's own words
    composer = Composer(sweep.config_dir)
    config = composer.load([*sweep.settings, *_own_words(sweep, folder)], RunMode.MULTIRUN)
    callbacks = Callbacks(config)
    context = HydraContext(config_loader=composer.loader, callbacks=callbacks)
    callbacks.on_multirun_start(config=config, config_name="config")
    with composer.messages():
        yield {"hydra_context": context, "task_function": partial(_job, run), "config": config}
    callbacks.on_multirun_end(config=config, config_name="config")


def _own_words(sweep: Sweep, folder: Path) -> list[str]:
    """Settings of Hydra that gdo wants otherwise, unless they are given."""
    wanted = {
        "hydra/hydra_logging": "none",
        "hydra/job_logging": "none",
        "hydra.output_subdir": "null",
        "hydra.job.chdir": "false",
        "hydra.sweep.dir": quoted(str(folder)),
        "hydra.sweep.subdir": ".",
    }
    if sweep.sweeper == "optuna":
        wanted |= {"hydra.sweeper.direction": "maximize", "hydra.sweeper.max_failure_rate": "1.0"}
        if not any(word.startswith("hydra/sweeper/sampler=") for word in sweep.settings):
            wanted["hydra.sweeper.sampler.seed"] = "0"  # so that the same command tries the same points
        if sweep.launcher == "basic":
            wanted["hydra.sweeper.n_jobs"] = "1"  # a batch would only keep it from learning in between
    if sweep.launcher == "ray":  # the plugin's own value is refused where there is a cluster already
        wanted["++hydra.launcher.ray.init.object_store_memory"] = "null"
    given = {word.partition("=")[0].lstrip("+~") for word in sweep.settings}
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


def _outcomes(folder: Path) -> list[Outcome]:
    files = sorted(folder.glob("point-*.json"), key=lambda file: int(file.stem.partition("-")[2]))
    return [Outcome(**json.loads(file.read_text("utf-8"))) for file in files]
