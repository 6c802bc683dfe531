"""What guessing gets on a task: the same answer to every item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gdo_cli.runs.record import RunResult, read_run


def guessing(runs: Sequence[RunResult]) -> float | None:
    """Return the exact match on the test items of who always gives the commonest answer.

    Of options that are answered with their text hardly two are alike: there it is the commonest place of
    the right option, which a run on the same items tells that was answered with letters. None without such
    a run, without predictions, and for runs on several tasks, which no one level is for.
    """
    if len({run.name["task"] for run in runs}) != 1:
        return None
    run = runs[0]
    answers = _answers(run)
    if _form(run) == "text":
        letters = (_answers(other) for other in _with_letters(run))
        answers = next((found for found in letters if len(found) == len(answers)), [])
    return commonest(answers) if answers else None


def commonest(answers: Sequence[str]) -> float:
    """Return the share of the answer that is right most often."""
    return max(Counter(answers).values()) / len(answers)


def right_answers(run: RunResult) -> list[str]:
    """To the task's test items, by the run's predictions."""
    return [row["answer"] for row in run.predictions if row["part"] == "task/test"]


def _answers(run: RunResult) -> list[str]:
    return right_answers(run) if (run.path / "predictions.jsonl.gz").is_file() else []


def _form(run: RunResult) -> str | None:
    """Whether options are answered with their text or their letter; None for a task without options."""
    return run.record.config.get("task", {}).get("answer")


def _with_letters(run: RunResult) -> Iterator[RunResult]:
    """Runs beside it, of any model, on the same test items."""
    for file in sorted(run.path.parents[3].glob(f"*/{run.name['task']}/*/seed*/result.json")):
        other = read_run(file.parent)
        same = other.record.data["test"]["sha256"] == run.record.data["test"]["sha256"]
        if same and _form(other) == "letter":
            yield other
