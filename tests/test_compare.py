"""Claims about ``gdo compare``: which items are set against which, what is shown, what is refused."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import recorded
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.compare import Cell, compare
from gdo_cli.stats import intervals as statistics
from gdo_cli.stats.intervals import seeds_and_items
from gdo_cli.stats.metrics import BLEU
from gdo_cli.stats.outcomes import Paired
from gdo_cli.support.console import console

Make = Callable[..., str]
FIRST, SECOND = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1, 1]  # five gained, one lost
BLANK = "winogrande/exact_match"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a finished run by hand and returns its name."""

    def make(
        method: str,
        correct: list[int] | None = None,
        *,
        seed: int = 0,
        bleu: list[str] | None = None,
        losses: list[float] | None = None,
        task: str = "scitail",
        checksum: str = "abc",
        items: int = 8,
    ) -> str:
        folder = tmp_path / "runs" / "tiny" / task / f"{method}-{method}1234" / f"seed{seed}"
        folder.mkdir(parents=True)
        correct = correct or FIRST
        task_rows: list[dict[str, Any]]
        if bleu:
            task_rows = [{"answer": f"le chien {i} dort ici", "predicted": t} for i, t in enumerate(bleu)]
            final: dict[str, float] = {"task/bleu": 1.0}
        else:
            task_rows = [{"answer": f"answer {i}", "correct": bool(c)} for i, c in enumerate(correct)]
            final = {"task/exact_match": sum(correct) / len(correct), "task/exact_match_se": 0.1}
        rows = [{"part": "task/test", "item": i} | row for i, row in enumerate(task_rows)]
        rows += [{"part": "winogrande", "item": i, "exact_match": float(c)} for i, c in enumerate(correct)]
        final[BLANK] = sum(correct) / len(correct)
        for i, loss in enumerate(losses or []):
            rows.append({"part": "perplexity", "item": i, "loss": loss, "loss_weight": i + 1.0})
            final["perplexity/loss"] = 2.0
        record = {
            "id": f"{method}1234",
            "seed": seed,
            "name": {"model": "tiny", "task": task, "method": method},
            "method_label": method.upper(),
            "final": final | {"kl/answer": 1.0},
            "data": {
                "source": "sample",
                "test": {"sha256": "t"},
                "probe/winogrande": {"sha256": checksum},
                "probe/perplexity": {"sha256": "p"},
            },
            "config": {
                "method": {},
                "train": {"lr": 1e-3},
                "probe": {"winogrande": {"items": items, "shots": seed}, "perplexity": {"items": items}},
            },
        }
        (folder / "result.json").write_text(json.dumps(recorded(record).to_dict()), "utf-8")
        text = "".join(json.dumps(row) + "\n" for row in reversed(rows))
        (folder / "predictions.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        return f"{method}-{method}1234"

    return make


def gdo(*words: str, results: Path) -> Any:
    return CliRunner().invoke(app, ["compare", *words, "--results", str(results)], env={"COLUMNS": "200"})


def cell(found: Any, measure: str, column: int) -> Cell:
    found = found.rows[measure][column]
    assert isinstance(found, Cell)
    return found


# ----------------------------------------------------------------------------------------- the numbers


def test_each_measure_is_tested_item_by_item_against_the_first_run(make: Make, tmp_path: Path) -> None:
    found = compare([make("a"), make("b", SECOND), make("c", FIRST)], tmp_path)
    assert list(found.rows) == ["task/exact_match", BLANK]  # kl/answer is known of no single item
    for measure in found.rows:
        assert cell(found, measure, 0).paired is None
        paired = cell(found, measure, 1).paired
        assert paired is not None
        assert paired.difference == pytest.approx(0.5)
        assert paired.p == pytest.approx(2 * (1 + 6) / 2**6)
        assert cell(found, measure, 2).paired == Paired(0.0, 1.0, "McNemar, exact")
        assert cell(found, measure, 1).interval == statistics.accuracy(SECOND)


def test_translations_are_compared_as_corpora(make: Make, tmp_path: Path) -> None:
    good = [f"le chien {i} dort ici" for i in range(8)]
    bad = [f"un chien {i} dort là" for i in range(8)]
    found = compare([make("a", bleu=good), make("b", bleu=bad)], tmp_path)
    assert cell(found, "task/bleu", 0).interval.value == pytest.approx(100)
    assert cell(found, "task/bleu", 1).paired == BLEU.paired(good, bad, [1.0] * 8, good)


def test_losses_are_means_weighted_by_tokens(make: Make, tmp_path: Path) -> None:
    first, second = [1.0, 2.0, 3.0], [1.5, 2.5, 2.0]
    found = compare([make("a", losses=first), make("b", losses=second)], tmp_path)
    assert cell(found, "perplexity/loss", 0).interval.value == pytest.approx((1 + 4 + 9) / 6)
    paired = cell(found, "perplexity/loss", 1).paired
    assert paired is not None
    assert paired.difference == pytest.approx((0.5 + 1.0 - 3.0) / 6)


def test_a_name_that_seeds_share_stands_for_their_mean(make: Make, tmp_path: Path) -> None:
    shares = {"a": (1, 2, 4), "b": (4, 6, 7)}
    for method, rights in shares.items():
        for seed, n in enumerate(rights):
            make(method, [1] * n + [0] * (8 - n), seed=seed)
    found = compare(["a-a1234", "b-b1234"], tmp_path)
    assert found.columns[1].title == "scitail/b-b1234/seed0,1,2"
    right = np.array([[[1] * n + [0] * (8 - n) for n in shares[method]] for method in "ab"])
    assert cell(found, BLANK, 1).interval == seeds_and_items(right[1], [1.0] * 8).interval
    paired = cell(found, BLANK, 1).paired
    assert paired is not None
    assert paired.difference == pytest.approx((right[1] - right[0]).mean())
    assert paired.p == seeds_and_items(right[1] - right[0], [1.0] * 8).p
    assert paired.test == "t, paired by seed and item"
    one = compare(["a-a1234", "b-b1234/seed1"], tmp_path)
    assert cell(one, BLANK, 1).paired is None
    assert "too few seeds" in cell(one, BLANK, 1).note


# ------------------------------------------------------------------------------------------- the items


@pytest.mark.parametrize("other", [{"checksum": "xyz"}, {"items": 9}, {"correct": [*SECOND, 1]}])
def test_other_items_are_shown_and_marked_but_not_compared(
    make: Make, tmp_path: Path, other: dict[str, Any]
) -> None:
    make("a")
    make("b", **({"correct": SECOND} | other))
    found = compare(["a-a1234", "b-b1234"], tmp_path)
    assert cell(found, BLANK, 1).paired is None
    told = " ".join(gdo("a-a1234", "b-b1234", results=tmp_path).stdout.split())
    assert f"{BLANK} of scitail/b-b1234/seed0 was measured on other items" in told
    if "correct" not in other:
        assert cell(found, "task/exact_match", 1).paired is not None


def test_runs_on_two_tasks_are_compared_in_what_they_kept(make: Make, tmp_path: Path) -> None:
    make("a", bleu=[f"chien {i}" for i in range(8)], task="multi30k")
    make("b", SECOND)
    found = compare(["a-a1234", "b-b1234"], tmp_path)
    assert found.rows["task/bleu"][1] is None
    assert found.rows["task/exact_match"][0] is None
    assert cell(found, BLANK, 1).paired is not None


def test_items_are_the_same_whatever_stands_before_them(make: Make, tmp_path: Path) -> None:
    """Solved examples in front of a question do not make it another question."""
    make("a")
    make("b", SECOND, seed=3)  # with three shots instead of none
    assert cell(compare(["a-a1234", "b-b1234"], tmp_path), BLANK, 1).paired is not None


# ------------------------------------------------------------------------------------------- the table


def test_it_is_printed_and_written_as_markdown_and_csv(make: Make, tmp_path: Path) -> None:
    make("a")
    make("b", SECOND)
    files = [tmp_path / "new" / "table.md", tmp_path / "table.csv"]
    words = ["a-a1234", "b-b1234", "--md", str(files[0]), "--csv", str(files[1])]
    shown = gdo(*words, results=tmp_path)
    assert shown.exit_code == 0, shown.output
    low, high = (statistics.accuracy(SECOND).low, statistics.accuracy(SECOND).high)
    for text in ("0.375", "0.875", f"[{low:.3f}, {high:.3f}]", "+0.500, p = 0.219"):
        assert text in shown.stdout
    markdown = files[0].read_text("utf-8").splitlines()
    assert markdown[0] == "| measure | A (`scitail/a-a1234/seed0`) | B (`scitail/b-b1234/seed0`) |"
    assert markdown[2].startswith("| task/exact_match, 8 items | 0.375<br>")
    assert markdown[2].endswith(f"0.875<br>[{low:.3f}, {high:.3f}]<br>+0.500, p = 0.219 |")
    with files[1].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["measure"], r["label"]) for r in rows[:2]] == [
        ("task/exact_match", "A"),
        ("task/exact_match", "B"),
    ]
    assert (float(rows[1]["difference"]), float(rows[1]["p"])) == (0.5, 0.21875)
    assert rows[0]["p"] == ""


def test_what_does_not_fit_beside_the_first_run_stands_below(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 80)
    names = [make(method, SECOND) for method in "abcdef"]
    shown = gdo(*names, results=tmp_path)
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert shown.stdout.count("a-a1234") == 3  # two more at a time
    assert all(shown.stdout.count(name) == 1 for name in names[1:])


# ------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a-a1234"], "name two runs or more"),
        (["a-a1234", "a-a12"], "a-a12: the first run again"),
        (["a-a1234", "x"], "no finished run 'x'"),
        (["a-a1234", "1234"], "'1234' names 2 runs"),
    ],
)
def test_a_mistake_is_named(make: Make, tmp_path: Path, words: list[str], message: str) -> None:
    make("a")
    make("b")
    result = gdo(*words, results=tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_run_without_predictions_is_named(make: Make, tmp_path: Path) -> None:
    make("a")
    make("b")
    (tmp_path / "runs/tiny/scitail/b-b1234/seed0/predictions.jsonl.gz").unlink()
    result = gdo("a-a1234", "b-b1234", results=tmp_path)
    assert result.exit_code == 2
    assert "b-b1234/seed0/predictions.jsonl.gz: cannot be read" in result.stderr


def test_damaged_predictions_are_named(make: Make, tmp_path: Path) -> None:
    """Each byte in turn, the format's own among them."""
    make("a")
    make("b")
    file = tmp_path / "runs/tiny/scitail/b-b1234/seed0/predictions.jsonl.gz"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        result = gdo("a-a1234", "b-b1234", results=tmp_path)
        assert result.exit_code in (0, 2), (place, result.exception)
        assert result.exit_code == 0 or "predictions.jsonl.gz: cannot be read" in result.stderr


def test_a_file_that_cannot_be_written_is_named(make: Make, tmp_path: Path) -> None:
    make("a")
    make("b")
    (tmp_path / "file").touch()
    result = gdo("a-a1234", "b-b1234", "--md", str(tmp_path / "file" / "x.md"), results=tmp_path)
    assert result.exit_code == 2
    assert "x.md: cannot be written" in result.stderr
