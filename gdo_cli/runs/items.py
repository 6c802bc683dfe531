"""What runs got item by item, compared over items, seeds, or both; and what guessing would get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gdo_cli.runs.record import RunResult, read_run
from gdo_cli.stats.intervals import Estimate, seed_mean, seeds_and_items
from gdo_cli.stats.metrics import INDEX, Measure, Metric, measure_named
from gdo_cli.stats.outcomes import Interval, Paired
from gdo_cli.stats.retention import index_by_item, paired_accuracies

TASK = "task/test"
NOT_ASKED = ("shots", "dataset", "words", "kl")  # settings of a probe that choose none of its items


@dataclass(frozen=True)
class Items:
    """What a run made of the items of a measure."""

    identity: Any  # equal for two runs if and only if they were asked about the same items
    values: list[Any]  # the score of each item; its text for a score of the whole corpus
    weights: list[float]
    answers: list[str]  # the right texts, for the task
    measure: Measure  # how they are judged

    def interval(self) -> Interval:
        return self.measure.interval(self.values, self.weights, self.answers)

    def difference(self, second: Items) -> Interval:
        """Second minus first on the same items, with its bootstrap interval."""
        return self.measure.difference(self.values, second.values, self.weights, self.answers)

    def paired(self, second: Items) -> Paired:
        return self.measure.paired(self.values, second.values, self.weights, self.answers)


def items_of(run: RunResult, measure: str) -> Items:
    """Return what a run made of each item of a measure that its predictions hold."""
    if measure == INDEX:
        return _of_index(run)
    part, key = measure.split("/")
    is_task = part == "task"
    rows = [p for p in run.predictions if p["part"] == (TASK if is_task else part)]
    rows.sort(key=lambda row: int(row["item"]))
    counted = [row for row in rows if row.get(f"{key}_weight", 1)]
    data, config = run.record.data, run.record.config
    answers = [str(row["answer"]) for row in rows] if is_task else []
    if is_task:
        asked: Any = answers
    else:  # the subset is drawn from the usable rows, which the probe's own settings decide
        asked = {k: v for k, v in config["probe"][part].items() if k not in NOT_ASKED}
        asked["half"] = config.get("evaluation", {}).get("half")
    checksum = data["test" if is_task else f"probe/{part}"].get("sha256")
    found = measure_named(measure)
    if isinstance(found, Metric):
        found = found.with_settings(config.get("task", {}))
        asked = [asked, dict(found.settings)]
    values = [row[found.field] for row in counted]
    weights = [float(row.get(f"{key}_weight", 1)) for row in counted]
    which = len(rows) if len(counted) == len(rows) else [row["item"] for row in counted]
    return Items((checksum, asked, which), values, weights, answers, found)


def _of_index(run: RunResult) -> Items:
    """The retention index as a mean over the items that it is made of."""
    chances = run.record.data["retention"]["chances"]
    probes = paired_accuracies(chances, run.untouched, run.predictions)
    asked = [(m, chance, items_of(run, m).identity) for m, chance in chances.items()]
    values = index_by_item(probes or [])
    return Items(asked, values, [1.0] * len(values), [], measure_named(INDEX))


def over_seeds(runs: Sequence[RunResult], measure: str) -> Interval:
    """Return the mean over runs that differ in their seed alone, its interval over seeds and items.

    Over the items of a single run. Over the seeds alone where a score is of the whole corpus, or the runs
    were asked about different items.
    """
    items = [items_of(run, measure) for run in runs]
    if len(runs) == 1:
        return items[0].interval()
    if items[0].measure.is_corpus or any(other.identity != items[0].identity for other in items):
        return seed_mean([run.final[measure] for run in runs])
    return seeds_and_items([found.values for found in items], items[0].weights).interval


def change_over_seeds(pairs: Sequence[tuple[Items, Items]]) -> Estimate | None:
    """Second minus first, a pair for each seed, over seeds and items, which all have to share.

    None for a score of a whole corpus.
    """
    if pairs[0][0].measure.is_corpus:
        return None
    changes = [[b - a for a, b in zip(old.values, new.values, strict=True)] for old, new in pairs]
    return seeds_and_items(changes, pairs[0][0].weights)


# ------------------------------------------------------------------------------------------ guessing


def guessing(runs: Sequence[RunResult]) -> float | None:
    """Return the exact match on the test items of who always gives the commonest answer.

    Of options that are answered with their text hardly two are alike: there it is the commonest place of
    the right option, which a run on the same items tells that was answered with letters. None without such
    a run, without predictions, and for runs on several tasks, which no one level is for.
    """
    if len({run.name["task"] for run in runs}) != 1:
        return None
    run = runs[0]
    answers = _kept_answers(run)
    if _form(run) == "text":
        files = sorted(run.path.parents[3].glob(f"*/{run.name['task']}/*/seed*/result.json"))
        others = (read_run(file.parent) for file in files)
        checksum = run.record.data["test"]["sha256"]
        same = (o for o in others if o.record.data["test"]["sha256"] == checksum and _form(o) == "letter")
        answers = next((found for o in same if len(found := _kept_answers(o)) == len(answers)), [])
    return commonest(answers) if answers else None


def commonest(answers: Sequence[str]) -> float:
    """Return the share of the answer that is right most often."""
    return max(Counter(answers).values()) / len(answers)


def right_answers(run: RunResult) -> list[str]:
    """To the task's test items, by the run's predictions."""
    return [row["answer"] for row in run.predictions if row["part"] == TASK]


def _kept_answers(run: RunResult) -> list[str]:
    return right_answers(run) if (run.path / "predictions.jsonl.gz").is_file() else []


def _form(run: RunResult) -> str | None:
    """Whether options are answered with their text or their letter; None for a task without options."""
    return run.record.config.get("task", {}).get("answer")
