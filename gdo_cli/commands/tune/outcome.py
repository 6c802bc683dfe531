"""What a search came to: the chosen model, measured once on items that chose nothing, and what was tried."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gdo_cli.commands.tune.search import Candidate, merit
from gdo_cli.config.build import rebuild
from gdo_cli.config.tune import Tuning
from gdo_cli.evaluation.evaluator import Evaluation
from gdo_cli.evaluation.untouched import Untouched
from gdo_cli.evaluation.verdict import Verdict, hold, judge
from gdo_cli.experiment.reopen import Opened
from gdo_cli.figures import tuned
from gdo_cli.figures.files import save
from gdo_cli.stats.frontier import undominated
from gdo_cli.stats.metrics import measure_named
from gdo_cli.support.console import Reporter, note, warn
from gdo_cli.support.errors import UserError
from gdo_cli.support.files import json_text, write_for_user
from gdo_cli.support.markdown import csv_text


@dataclass(frozen=True)
class Outcome:
    """The end of a search.

    Attributes:
        chosen: the best model that holds the contract, or else the one that comes nearest.
        test: its score on test items, and other measures of the task.
        verdicts: on probe items that chose nothing; on those of the search where there are no others.
        fresh: whether they are such items.
    """

    tuning: Tuning
    candidates: list[Candidate]
    chosen: Candidate
    test: dict[str, float]
    verdicts: list[Verdict]
    fresh: bool

    @property
    def holds(self) -> bool:
        """Whether the chosen model held the contract on the items of the search."""
        return self.chosen.kept == "kept"

    @property
    def measure(self) -> str:
        return self.tuning.first.task.metric.key


def conclude(tuning: Tuning, candidates: list[Candidate]) -> Outcome:
    """Choose a model, measure it on test items, and write what was found into the study's folder."""
    chosen = max(candidates, key=merit)
    test, verdicts, fresh = _confirm(tuning, chosen)
    outcome = Outcome(tuning, candidates, chosen, test, verdicts, fresh)
    write_for_user(tuning.folder / "result.json", json_text(to_dict(outcome), indent=1) + "\n")
    write_for_user(tuning.folder / "models.csv", csv_text(rows(outcome)))
    models = {id(c): _model(c) for c in candidates}
    drawing = tuned.draw(list(models.values()), models[id(chosen)], outcome.measure)
    save(drawing, tuning.folder / "tune")
    return outcome


def _model(c: Candidate) -> tuned.Model:
    method = next((w.partition("=")[2] for w in c.words if w.startswith("method=")), c.run.name["method"])
    return tuned.Model(c.run, method, c.alpha, c.score, c.used, c.kept == "kept")


# ------------------------------------------------------------------------------- measured once, at the end


def _confirm(tuning: Tuning, chosen: Candidate) -> tuple[dict[str, float], list[Verdict], bool]:
    """The chosen model on test items and on other items of the probes: measured once, and kept."""
    file = tuning.folder / "confirmed.json"
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if known.get("run") != str(chosen.run.path):
        note("the chosen model is measured on items that chose nothing")
        before, after, fresh = _measure(tuning, chosen)
        test = {key: value for key, value in after.metrics.items() if key.startswith("task/")}
        known = {"run": str(chosen.run.path), "test": test, "fresh": fresh}
        known |= {"before": before.predictions, "after": after.predictions}
        write_for_user(file, json_text(known) + "\n")
    config = tuning.first
    chances = Untouched(config.probe, known["before"]).chances
    promises, level = tuning.contract.promises(config.probe), tuning.contract.level
    verdicts = judge(promises, chances, known["before"], known["after"], level)
    return known["test"], verdicts, known["fresh"]


def _measure(tuning: Tuning, chosen: Candidate) -> tuple[Evaluation, Evaluation, bool]:
    """The base on the probes, the chosen model on the probes and the task's test items."""
    composed = tuning.composer(tuning.words)
    items = composed.evaluation.final_items
    words = [f"evaluation.final_items={'null' if items is None else items}"]
    for half in ("holdout", tuning.first.evaluation.half):
        config = rebuild(chosen.run, tuning.composer, [*words, f"evaluation.half={half}"])
        opened = Opened(config, chosen.run)
        try:
            opened.data  # noqa: B018
        except UserError as error:
            if half != "holdout":
                raise
            warn(f"the contract is confirmed on the items of the search: {error}")
            continue
        break
    with Reporter("tune", 1) as reporter:
        base = Opened(config)
        evaluator, lm = base.evaluator(), base.base()
        evaluator.remember_base(lm)
        parts = [evaluator.evaluate_probe(lm, name, reporter.advance) for name in evaluator.probe_of]
        before = Evaluation({}, [row for part in parts for row in part.predictions])
        after = evaluator.evaluate(opened.tuned(), "test", reporter.advance)
    return before, after, half == "holdout"


# ------------------------------------------------------------------------------------------------- tables


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Return a record for each model of the search."""
    places = [(c.score, -c.used) for c in outcome.candidates]
    sign = 1 if measure_named(outcome.measure).higher_is_better else -1
    return [
        {
            "trial": c.trial,
            "settings": " ".join(c.words) or c.run.label,
            "alpha": c.alpha,
            "score": sign * c.score,
            "used": c.used,
            "verdict": c.kept,
            "pareto": best,
            "chosen": c is outcome.chosen,
            "minutes": c.run.record.wall_seconds / 60,
            "run": c.run.title,
        }
        for c, best in zip(outcome.candidates, undominated(places), strict=True)
    ]


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of ``result.json`` and of ``--json``."""
    promises = [asdict(v.promise) | asdict(v.lost) | {"verdict": v.verdict} for v in outcome.verdicts]
    return {
        "search": outcome.tuning.name,
        "holds": outcome.holds,
        "chosen": outcome.chosen.run.title,
        "path": str(outcome.chosen.run.path),
        "settings": outcome.chosen.words,
        "alpha": outcome.chosen.alpha,
        "test": outcome.test,
        "promises": promises,
        "kept": hold(outcome.verdicts),
        "fresh_items": outcome.fresh,
        "models": rows(outcome),
    }


def folder_of(outcome: Outcome) -> Path:
    """Return where the search has written its files."""
    return outcome.tuning.folder
