"""``gdo check``: did a model learn, did it keep what it promised, and is the difference real?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdo_cli.config.build import load_run, rebuild
from gdo_cli.config.options import options, quoted
from gdo_cli.config.run_config import RunConfig
from gdo_cli.evaluation.verdict import Learnt, Verdict, hold, judge
from gdo_cli.runs.items import TASK, commonest, guessing, items_of
from gdo_cli.runs.record import UNTOUCHED, RunResult
from gdo_cli.stats.metrics import METRICS, Metric, measure_named
from gdo_cli.stats.outcomes import Interval
from gdo_cli.support.console import Reporter, visible
from gdo_cli.support.errors import require
from gdo_cli.support.markdown import table

if TYPE_CHECKING:
    from gdo_cli.evaluation.evaluator import Evaluation

ASSUMED = "keep=default"  # where neither the run nor the user promises anything
NOTHING = f"nothing is promised: name a contract, e.g. {ASSUMED}"


@dataclass(frozen=True)
class Checked:
    """The verdict on a model.

    Attributes:
        learnt: None where the task was not asked.
        texts: by measure, the items that the base model got right and this one wrong, as they were asked.
    """

    title: str
    about: str
    level: float
    learnt: Learnt | None
    verdicts: list[Verdict]
    texts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kept(self) -> str:
        return hold(self.verdicts)

    @property
    def is_good(self) -> bool:
        """Whether all is kept and the task, if it was asked, is learnt."""
        return self.kept == "kept" and (self.learnt is None or self.learnt.is_learnt(self.level))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of ``--json``."""
        promises = [
            asdict(v.promise)
            | {"base": v.before, "now": v.after, "lost": v.lost.value, "low": v.lost.low, "high": v.lost.high}
            | {"tolerated": v.lost.tolerated, "items": v.lost.items, "needed": v.lost.needed}
            | {"verdict": v.verdict, "broken": v.broken}
            for v in self.verdicts
        ]
        task = asdict(self.learnt) | {"learnt": self.learnt.is_learnt(self.level)} if self.learnt else None
        found = {"model": self.title, "level": self.level, "good": self.is_good, "kept": self.kept}
        return found | {"task": task, "promises": promises, "items": self.texts}


# ----------------------------------------------------------------------------------------- a finished run


def check_run(run: RunResult, overrides: list[str], items: int, config_dir: Path | None) -> Checked:
    """Return the verdict on a finished run, from what it kept of each item; no model is loaded.

    Args:
        overrides: another contract, e.g. ``keep=strict``.
        items: how many broken items to show of each measure; their rows are read again.
    Raises:
        UserError: the run was not asked what is promised, or is older than the records that this needs.
    """
    config = rebuild(run, config_dir, overrides)
    if not config.keep.tolerances and not any(word.startswith("keep=") for word in overrides):
        config = rebuild(run, config_dir, [ASSUMED, *overrides])
    require(
        (run.path / UNTOUCHED).is_file(),
        f"{run.title}: runs of its version did not keep what the base model got of each item; run it again: "
        "gdo train --force …",
    )
    promises = config.keep.promises(config.probe)
    require(bool(promises), NOTHING)
    chances = run.record.data.get("retention", {}).get("chances", {})
    verdicts = judge(promises, chances, run.untouched, run.predictions, config.keep.level)
    about = f"{run.label} on {run.name['task']}, {run.name['model']}"
    return Checked(
        run.title, about, config.keep.level, _learnt(run), verdicts, _broken_texts(config, verdicts, items)
    )


def _learnt(run: RunResult) -> Learnt | None:
    key = run.task_score
    if key not in run.final or len(run.evaluations) < 2 or run.evaluations[0]["step"]:
        return None
    first, last = run.evaluations[0], run.ended_with
    before, after = float(first[key]), float(last[key])
    errors = [float(line.get(f"{key}_se", math.nan)) for line in (first, last)]
    sign = 1 if measure_named(key).higher_is_better else -1
    p = None
    if all(map(math.isfinite, errors)):
        from scipy.stats import norm

        # As if the items were others: they are the same, so the true p-value is smaller.
        error = math.hypot(*errors)
        p = float(norm.sf(sign * (after - before) / error)) if error else float(after == before)
    by_chance = guessing([run]) if key == METRICS["exact_match"].key else None
    return Learnt(key, before, after, items_of(run, key).interval(), by_chance, p)


# ------------------------------------------------------------------------------------------ any two models


def check_models(base: str, tuned: str, overrides: list[str], items: int, config_dir: Path | None) -> Checked:
    """Return the verdict on a checkpoint or adapter against its base, both measured now.

    Args:
        base: an option of the group model, a folder, or a name of the hub.
        tuned: a folder with a checkpoint or a PEFT adapter, or a name of the hub.
    Raises:
        UserError: what cannot be loaded, or a contract of measures that cannot be asked.
    """
    if not any(word.startswith("keep") for word in overrides):
        overrides = [ASSUMED, *overrides]
    config = _measured_alone([*_chosen(base, config_dir), *overrides], config_dir)
    promises = config.keep.promises(config.probe)
    require(bool(promises), NOTHING)
    adapter = Path(tuned) if (Path(tuned) / "adapter_config.json").is_file() else None
    other = config if adapter else _measured_alone([*_chosen(tuned, config_dir), *overrides], config_dir)
    before = _measure(config, None)
    after = _measure(other, adapter)
    from gdo_cli.evaluation.untouched import Untouched

    chances = Untouched(config.probe, before.predictions).chances
    verdicts = judge(promises, chances, before.predictions, after.predictions, config.keep.level)
    learnt = _learnt_between(config.task.metric, before, after)
    texts = _broken_texts(config, verdicts, items)
    return Checked(f"{tuned} against {base}", "measured now", config.keep.level, learnt, verdicts, texts)


def _chosen(model: str, config_dir: Path | None) -> list[str]:
    """The overrides that choose a model: an option of the group, or a folder or a name of the hub."""
    if model in options("model", config_dir):
        return [f"model={model}"]
    return ["model=custom", f"model.path={quoted(model)}"]


def _measured_alone(words: list[str], config_dir: Path | None) -> RunConfig:
    """A configuration that measures the contract's probes, and the task only where one is named."""
    config = load_run(words, config_dir)
    if any(word.startswith("task") for word in words):
        return config
    return replace(config, evaluation=replace(config.evaluation, final_items=0))


def _measure(config: RunConfig, adapter: Path | None) -> Evaluation:
    """What a model gets of every item, which is then let go of."""
    from gdo_cli.experiment.reopen import Opened

    opened = Opened(config)
    opened.data  # noqa: B018 - before the weights, which take longer
    evaluator = opened.evaluator()
    lm = opened.adapted(adapter) if adapter else opened.base()
    with Reporter("check", 1) as reporter:
        return evaluator.evaluate(lm, "test", reporter.advance)


def _learnt_between(metric: Metric, before: Evaluation, after: Evaluation) -> Learnt | None:
    key = metric.key
    if key not in after.metrics:
        return None
    sides = [[row for row in e.predictions if row["part"] == TASK] for e in (before, after)]
    answers = [str(row["answer"]) for row in sides[1]]
    old, new = ([row[metric.field] for row in side] for side in sides)
    weights = [1.0] * len(new)
    found = metric.paired(old, new, weights, answers)
    gained = found.difference > 0 if metric.higher_is_better else found.difference < 0
    by_chance = commonest(answers) if metric is METRICS["exact_match"] else None
    p = found.p / 2 if gained else 1 - found.p / 2
    test = metric.interval(new, weights, answers)
    return Learnt(key, before.metrics[key], after.metrics[key], test, by_chance, p)


# -------------------------------------------------------------------------------------------- what was lost


def _broken_texts(config: RunConfig, verdicts: Sequence[Verdict], items: int) -> dict[str, list[str]]:
    """The first items of each measure that the base model got right and the other one wrong."""
    broken = {measure: places for v in verdicts for measure, places in v.broken.items() if places}
    if not broken or not items:
        return {}
    from gdo_cli.experiment.reopen import read_run_data

    data = read_run_data(config)
    found = {}
    for measure, places in broken.items():
        name = measure.partition("/")[0]
        if name not in data.probes:  # lm-evaluation-harness keeps its own rows
            continue
        rows, _ = data.probes[name]
        asked = [config.probe[name].queries(rows[place], []) for place in places[:items]]
        found[measure] = [queries[0].context for queries in asked]
    return found


# ------------------------------------------------------------------------------------------------- writing


def verdict_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return a line for each promise: what it was, what it is, what was lost, what may be, the verdict."""
    rows = []
    for v in verdicts:
        measure = measure_named(v.promise.measure)
        form = f".{measure.digits}f"
        arrow = "" if measure.higher_is_better else " ↓"
        judged = v.verdict
        if judged == "undecided" and v.lost.needed:
            judged += f": {v.lost.needed:,} items would tell"
        lost = Interval(v.lost.value, v.lost.low, v.lost.high)
        told = lost.with_ends(form) if lost.low < lost.high else format(lost.value, form)
        values = [format(value, form) for value in (v.before, v.after)]
        rows.append([v.promise.measure + arrow, *values, told, v.promise.written, judged])
    return rows


def task_row(learnt: Learnt, level: float) -> list[str]:
    """Return the task's line: before, after, on test items, the verdict."""
    form = f".{measure_named(learnt.measure).digits}f"
    judged = "learnt" if learnt.is_learnt(level) else "not learnt"
    if learnt.guessing is not None:
        judged += f" (guessing: {learnt.guessing:{form}})"
    values = [format(value, form) for value in (learnt.before, learnt.after)]
    return [learnt.measure, *values, learnt.test.with_ends(form), judged]


TASK_HEADING = ("task", "before", "after", "on test items", "verdict")
PROMISE_HEADING = ("promise", "base", "now", "lost", "tolerated", "verdict")


def sentence(found: Checked) -> str:
    """Return the verdict in words."""
    told = {
        "kept": "The contract holds.",
        "lost": "The contract is broken: " + ", ".join(_named(found, "lost")) + ".",
        "undecided": "The items cannot tell whether the contract holds: "
        + ", ".join(_named(found, "undecided"))
        + ".",
    }[found.kept]
    if found.learnt is None:
        return told
    learnt = found.learnt.is_learnt(found.level)
    return f"The task is {'' if learnt else 'not '}learnt. {told}"


def _named(found: Checked, verdict: str) -> list[str]:
    return [v.promise.measure for v in found.verdicts if v.verdict == verdict]


def remark(found: Checked) -> str:
    """Return what a reader has to know of the numbers."""
    percent = f"{100 * (1 - found.level):g} %"
    items = ", ".join(f"{v.promise.measure} {v.lost.items}" for v in found.verdicts)
    return (
        f"Losses with one-sided {percent} bounds over the same items ({items}). A promise is kept if the "
        "upper bound is within what is tolerated, and lost if the lower bound is beyond it."
    )


def as_markdown(found: Checked) -> str:
    """Return the check as a comment for a pull request."""
    parts = [f"### {found.title}", "", sentence(found), ""]
    if found.learnt:
        parts += [table(TASK_HEADING, [task_row(found.learnt, found.level)], words=1), ""]
    parts += [table(PROMISE_HEADING, verdict_rows(found.verdicts), words=1), "", remark(found), ""]
    for measure, texts in found.texts.items():
        parts += [f"<details><summary>{measure}: right before, wrong now</summary>", ""]
        parts += [f"- `{visible(text)}`" for text in texts]
        parts += ["", "</details>", ""]
    return "\n".join(parts)
