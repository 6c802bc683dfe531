"""Claims about ``make report``: which runs speak for a claim, by which rule, and what the page says."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import recorded
from scipy import stats
from study.__main__ import app as study
from study.checks import (
    NOT_LEARNT,
    NOT_SUPPORTED,
    OPEN,
    SEEDS_OPEN,
    SUPPORTED,
    UNMEASURED,
    Compared,
    Counted,
    Guess,
    NearZero,
    Ranks,
    Spread,
    Vectors,
    above,
    below,
    overall,
)
from study.claims import PAPER, Claim
from study.evidence import Evidence, Of
from study.html import page
from study.page import Figures, anchor, judge, markdown, other_seeds
from study.questions import QUESTIONS
from test_figures import run
from typer.testing import CliRunner

from gdo_cli.config.build import load_experiment
from gdo_cli.config.grid import load_grid
from gdo_cli.config.options import options
from gdo_cli.config.run_config import RunConfig
from gdo_cli.figures import experiments
from gdo_cli.figures.experiments import read_spec
from gdo_cli.methods.interpolation import OfRun
from gdo_cli.runs.find import find_run
from gdo_cli.runs.items import items_of
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.intervals import seeds_and_items
from gdo_cli.stats.metrics import INDEX
from gdo_cli.stats.outcomes import Interval
from gdo_cli.support.identity import identity
from gdo_cli.support.markdown import table


@cache
def composed(words: tuple[str, ...]) -> list[tuple[list[str], RunConfig]]:
    """The points of a grid of the packaged experiments: thousands, so each is composed once for all tests."""
    return load_grid(list(words))


@pytest.fixture(autouse=True)
def each_grid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(words: list[str], _: Any) -> list[tuple[list[str], RunConfig]]:
        (place,) = (word for word in words if word.startswith("results_dir="))
        points = composed(tuple(word for word in words if word != place))
        return [(point, replace(config, results_dir=place.partition("=")[2])) for point, config in points]

    monkeypatch.setattr(experiments, "load_grid", load)


EXACT, KEPT = "task/exact_match", "winogrande/exact_match"
OTHER_FILE = re.compile(r'(src|href)="(?!data:|#)')
RESULTS = Path(__file__).resolve().parent.parent / "results"
A, B = Of("x", {"method": "a"}), Of("x", {"method": "b"})


def result(method: str, right: list[int], validation: float = 0.5, **more: Any) -> RunResult:
    """A run that got these items right, of the task and of the probe alike."""
    rows: list[dict[str, Any]] = [
        {"part": "task/test", "item": i, "answer": str(i), "correct": bool(r)} for i, r in enumerate(right)
    ]
    rows += [{"part": "winogrande", "item": i, "exact_match": r} for i, r in enumerate(right)]
    share = sum(right) / len(right)
    content: dict[str, Any] = {"final": {EXACT: share, KEPT: share}}
    content["data"] = {"source": "local", "test": {"sha256": "t"}, "probe/winogrande": {"sha256": "p"}}
    content["config"] = {
        "train": {"lr": more.pop("lr", 1e-3)},
        "probe": {"winogrande": {"items": len(right)}},
    }
    lines = [{"kind": "evaluation", "step": 2, EXACT: validation}, *more.pop("lines", [])]
    found = run(method, lines, **content, **more)
    found.__dict__["predictions"] = rows
    return found


class Given(Evidence):
    """Runs that stand for those of every experiment."""

    def __init__(self, *runs: RunResult) -> None:
        super().__init__(Path("results"))
        self._given = list(runs)

    def experiment(self, name: str) -> tuple[list[RunResult], list[RunConfig]]:
        return self._given, []


def right(n: int, of: int = 100) -> list[int]:
    return [int(i < n) for i in range(of)]


# ------------------------------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    ("interval", "above_0", "below_0"),
    [
        (Interval(0.5, 0.1, 0.9), SUPPORTED, NOT_SUPPORTED),
        (Interval(0.0, -0.1, 0.1), OPEN, OPEN),
        (Interval(-0.5, -0.9, -0.1), NOT_SUPPORTED, SUPPORTED),
    ],
)
def test_a_whole_interval_decides_or_nothing_does(interval: Interval, above_0: str, below_0: str) -> None:
    assert above(interval, 0) == above_0
    assert below(interval, 0) == below_0


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], UNMEASURED),
        ([UNMEASURED, ""], UNMEASURED),
        ([SUPPORTED, UNMEASURED], SUPPORTED),
        ([SUPPORTED, NOT_LEARNT], SUPPORTED),
        ([UNMEASURED, NOT_LEARNT], NOT_LEARNT),
        ([SUPPORTED, OPEN], OPEN),
        ([SUPPORTED, SEEDS_OPEN], OPEN),
        ([SEEDS_OPEN, NOT_SUPPORTED], NOT_SUPPORTED),
        ([SUPPORTED, OPEN, NOT_SUPPORTED], NOT_SUPPORTED),
    ],
)
def test_one_comparison_that_fails_fails_the_claim(verdicts: list[str], expected: str) -> None:
    assert overall(verdicts) == expected


@pytest.mark.parametrize(
    ("second", "rule", "verdict"),
    [
        (right(60), "not worse", SUPPORTED),  # the same items: no difference, no interval
        (right(58), "not worse", OPEN),  # −2 points, down to −5 or so
        (right(40), "not worse", NOT_SUPPORTED),
        (right(80), "better", SUPPORTED),
        (right(60), "better", OPEN),
        (right(58), "better", OPEN),
        (right(40), "told", ""),
    ],
)
def test_two_runs_are_compared_on_the_same_items(second: list[int], rule: str, verdict: str) -> None:
    evidence = Given(result("a", right(60)), result("b", second))
    (row,) = Compared("what", A, B, rule=rule).rows(evidence)
    assert row.verdict == verdict
    assert row.first == "0.600 (A at 1e-3)"
    assert row.difference.startswith(f"{(sum(second) - 60) / 100:+.3f}".replace("-", "−"))
    assert row.over == "100 items"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (right(50), right(50), NOT_LEARNT),
        (right(55), right(50), NOT_LEARNT),  # 0.45 to 0.64
        (right(90), right(50), NOT_SUPPORTED),
        (right(50), right(90), SUPPORTED),
    ],
)
def test_two_that_guess_are_not_alike(first: list[int], second: list[int], verdict: str) -> None:
    evidence = Given(result("a", first), result("b", second))
    (row,) = Compared("what", A, B, guess=Guess(0.5)).rows(evidence)
    assert row.verdict == verdict


def test_the_commonest_answer_each_time_is_a_guess() -> None:
    runs = result("a", right(80)), result("b", right(80))
    (row,) = Compared("what", A, B, guess=Guess(0.5)).rows(Given(*runs))
    assert row.verdict == SUPPORTED
    for run_ in runs:
        for item in run_.predictions[:75]:
            item["answer"] = "neutral"  # 0.71 to 0.87 is not above 0.75
    (row,) = Compared("what", A, B, guess=Guess(0.5)).rows(Given(*runs))
    assert row.verdict == NOT_LEARNT


def test_several_seeds_are_compared_by_students_interval() -> None:
    shares = {"a": [50, 60, 55], "b": [58, 63, 64]}
    runs = [result(m, right(n), seed=s) for m, ns in shares.items() for s, n in enumerate(ns)]
    (row,) = Compared("what", A, B).rows(Given(*runs))
    ours, theirs = (np.array(shares[m]) / 100 for m in "ba")
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert row.difference == f"+{(ours - theirs).mean():.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
    assert row.over == "3 seeds × 100 items"


def test_several_seeds_that_agree_are_still_only_as_sure_as_their_items() -> None:
    """Every seed gains the same 10 of 100 items: an interval over seeds alone would have no width."""
    runs = [result(m, right(n), seed=s) for m, n in (("a", 60), ("b", 70)) for s in range(3)]
    (row,) = Compared("what", A, B, rule="better").rows(Given(*runs))
    reach = stats.t.ppf(0.975, 99) * np.sqrt(0.1 * 0.9 / 99)
    assert row.difference == f"+0.100 [{0.1 - reach:+.3f}, {0.1 + reach:+.3f}]"
    for run_ in runs[3:]:
        run_.record.machine["cpu"] = "Another"
    (row,) = Compared("what", A, B).rows(Given(*runs))
    assert row.over == "3 seeds × 100 items, two processors"


def test_the_best_place_for_the_answer_is_a_guess() -> None:
    """On the same items, 75 of 100 right answers are option c, whatever its text."""
    letters = result("letters", right(0))
    for item in letters.predictions[:75]:
        item["answer"] = "c"
    guess = Guess(0.5, Of("x", {"method": "letters"}))
    pair = result("a", right(80)), result("b", right(80))
    check = Compared("what", A, B, guess=guess)
    assert [row.verdict for row in check.rows(Given(*pair, letters))] == [NOT_LEARNT]
    assert [row.verdict for row in check.rows(Given(*pair))] == [SUPPORTED]  # nothing is known of places
    letters.record.data["test"] = {"sha256": "other items"}
    assert [row.verdict for row in check.rows(Given(*pair, letters))] == [SUPPORTED]


class Seeds(Given):
    """Beside the runs given, `seeds`: three of one configuration with these shares of 100 items."""

    def __init__(self, shares: tuple[int, ...], *runs: RunResult) -> None:
        super().__init__(*runs)
        self._seeds = [result("s", right(n), seed=seed, id="s") for seed, n in enumerate(shares)]

    def experiment(self, name: str) -> tuple[list[RunResult], list[RunConfig]]:
        return (self._seeds, []) if name == "seeds" else super().experiment(name)


# Half of Student's interval at two degrees of freedom, for seeds that lie 0.02 apart: 0.0861.
@pytest.mark.parametrize(
    ("second", "rule", "alone", "verdict"),
    [
        (73, "better", SUPPORTED, SUPPORTED),  # 0.13 is more than √2 · 0.0861
        (72, "better", SUPPORTED, SEEDS_OPEN),
        (42, "not worse", NOT_SUPPORTED, NOT_SUPPORTED),  # 0.18 is 0.13 below the margin
        (43, "not worse", NOT_SUPPORTED, SEEDS_OPEN),
        (60, "not worse", SUPPORTED, SEEDS_OPEN),
        (60, "better", OPEN, OPEN),
        (10, "told", "", ""),
    ],
)
def test_what_another_seed_may_turn_around_is_left_open(
    second: int, rule: str, alone: str, verdict: str
) -> None:
    runs = result("a", right(60)), result("b", right(second))
    check = Compared("what", A, B, rule=rule)
    assert [row.verdict for row in check.rows(Seeds((58, 60, 62), *runs))] == [verdict]
    assert [row.verdict for row in check.rows(Seeds((60, 60, 60), *runs))] == [alone]
    paired = Compared("what", A, B, rule=rule, one_training=True)
    assert [row.verdict for row in paired.rows(Seeds((58, 60, 62), *runs))] == [alone]


@pytest.mark.parametrize(("n", "verdict"), [(0, SUPPORTED), (17, SEEDS_OPEN), (19, NOT_SUPPORTED)])
def test_near_zero_is_left_open_too_where_a_seed_decides(n: int, verdict: str) -> None:
    of = Of("x", {"method": "a"})
    found = result("a", right(n, of=1000) if n == 0 else right(10 * n, of=1000))
    (row,) = NearZero("what", of).rows(Seeds((58, 60, 62), found))
    assert row.verdict == verdict


@pytest.mark.parametrize("swap", [False, True])
def test_the_untouched_model_has_no_seeds(swap: bool) -> None:
    base = result("b", right(60), steps=0)
    base.record.config["method"] = {}
    trained = [result("a", right(n), seed=seed) for seed, n in enumerate((50, 54, 52))]
    pair = (A, B) if swap else (B, A)
    (row,) = Compared("what", *pair).rows(Given(base, *trained))
    # The seeds' error is 0.02 / √3, with t(0.975; 2); the items', of 8 in 100 that differ, weighs more.
    changes = [[a - b for a, b in zip(right(n), right(60), strict=True)] for n in (50, 54, 52)]
    found = seeds_and_items(changes, [1.0] * 100).interval
    mean, low, high = found.value, found.low, found.high
    assert low < -0.08 - 4.302653 * 0.02 / 3**0.5
    ends = (-mean, -high, -low) if swap else (mean, low, high)
    assert row.difference == "{:+.3f} [{:+.3f}, {:+.3f}]".format(*ends).replace("-", "−")
    assert row.over == "3 seeds × 100 items"
    single = result("a", right(68))
    (row,) = Compared("what", B, A, rule="better").rows(Seeds((58, 60, 62), base, single))
    assert row.verdict == SEEDS_OPEN  # 0.08 is less than 0.0861, one side's
    single = result("a", right(69))
    (row,) = Compared("what", B, A, rule="better").rows(Seeds((58, 60, 62), base, single))
    assert row.verdict == SUPPORTED


def test_seeds_of_other_experiments_count(tmp_path: Path) -> None:
    """The experiment asks for seed 1; seeds 0 and 2 of the same run lie beside it."""
    for seed in (0, 1, 2):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        record = result("a", right(50), seed=seed).record
        (folder / "result.json").write_text(json.dumps(record.to_dict()))
    asked = result("a", right(50), seed=1, path=str(tmp_path / "seed1"))
    assert [run.seed for run in Given(asked).runs(A)] == [1, 0, 2]


def test_single_runs_are_compared_at_a_seed_that_both_have() -> None:
    many = [result("a", right(n), seed=seed) for seed, n in ((0, 90), (1, 60))]
    (row,) = Compared("what", A, B).rows(Given(*many, result("b", right(60), seed=1)))
    assert (row.first, row.over) == ("0.600 (A at 1e-3)", "100 items")
    assert row.difference.startswith("+0.000")


def test_the_rate_is_chosen_by_validation_items_alone() -> None:
    low = result("a", right(90), validation=0.5, lr=1e-5, id="low")
    high = result("a", right(10), validation=0.6, lr=1e-3, id="high")
    assert Given(low, high).runs(A) == [high]
    assert Given(low, high).runs(Of("x", {"method": "a", "train.lr": 1e-5})) == [low]
    assert Given(low).runs(B) == []
    lucky = [{"kind": "evaluation", "step": step, EXACT: score} for step, score in ((3, 0.2), (4, 0.9))]
    jumping = result("a", right(10), validation=0.1, lr=1e-2, id="jumping", lines=lucky)
    assert Given(low, jumping).runs(A) == [low]  # 0.5 against a mean of 0.4
    early = [{"kind": "evaluation", "step": step, EXACT: 0.9} for step in (3, 4, 5)]
    slow = result("a", right(10), validation=0.0, lr=1e-2, id="slow", lines=early)
    assert Given(high, slow).runs(A) == [slow]  # its beginning does not count


def test_runs_that_are_missing_or_saw_other_items_decide_nothing() -> None:
    (row,) = Compared("what", A, B).rows(Given(result("a", right(5))))
    assert row.verdict == UNMEASURED
    (row,) = Compared("what", A, B).rows(Given(result("a", right(5)), result("b", right(5, of=99))))
    assert (row.verdict, row.over, row.difference) == (UNMEASURED, "other items", "–")
    assert (row.first, row.second) == ("0.050 (A at 1e-3), 100 items", "0.051 (B at 1e-3), 99 items")


@pytest.mark.parametrize(("n", "verdict"), [(0, SUPPORTED), (8, OPEN), (40, NOT_SUPPORTED)])
def test_near_zero_is_below_a_tenth_for_sure(n: int, verdict: str) -> None:
    (row,) = NearZero("what", A).rows(Given(result("a", right(n))))
    assert row.verdict == verdict


def test_parameters_are_counted_not_quoted() -> None:
    (row,) = Counted("what", ("model=gemma3_1b", "method=g_freeze"), 0.6).rows(Given())
    # 3 · 1152 · 6912 · 26 new weights on 999,885,952
    assert row.second == f"{100 * 3 * 1152 * 6912 * 26 / 999_885_952:.1f} %"
    assert row.verdict == SUPPORTED
    (row,) = Counted("what", ("model=gemma3_1b", "method=g_freeze", "layers=10"), 0.3).rows(Given())
    assert row.verdict == NOT_SUPPORTED


def test_ranks_are_compared_layer_by_layer_over_the_stages() -> None:
    def ranks(task: str, of_layer: list[float]) -> RunResult:
        lines = [
            {"kind": "rank", "of": of, "module": module, "layer": n, "step": step, "effective_rank": rank}
            for step, factor in ((10, 1.0), (20, 3.0))
            for n, value in enumerate(of_layer)
            for of, module, rank in (
                ("weights", "up_proj", factor * value),
                ("weights", "gate_proj", 1.0),
                ("gradients", "up_proj", 1.0),
            )
        ]
        name = {"model": "tiny", "task": task, "method": "sft"}
        return result("sft", right(1), lines=[*lines, {"kind": "evaluation", "step": 3, EXACT: 0}], name=name)

    evidence = Given(ranks("easy", [10, 20, 30]), ranks("hard", [15, 25, 35]))
    easy, hard = (Of("x", {"task": task}) for task in ("easy", "hard"))
    (row,) = Ranks("easy → hard", easy, hard).rows(evidence)
    assert (row.what, row.first, row.second) == ("easy → hard", "40", "50")
    assert row.difference.startswith("+10")
    assert (row.over, row.verdict) == ("3 layers", SUPPORTED)


@pytest.mark.parametrize(
    ("second", "verdict"),
    [((0.9, 0.8, 1.0), SUPPORTED), ((0.6, 0.5, 0.7), OPEN), ((0.1, 0.0, 0.2), NOT_SUPPORTED)],
)
def test_vectors_differ_if_their_intervals_do_not_meet(
    tmp_path: Path, second: tuple[float, ...], verdict: str
) -> None:
    runs = []
    for method, numbers in (("a", (0.5, 0.4, 0.6)), ("b", second)):
        found = result(method, right(1), path=str(tmp_path / method))
        found.path.mkdir()
        number = dict(zip(("value", "low", "high"), numbers, strict=True))
        found.save_analysis("fv", {"run": {"overlap": number}})
        runs.append(found)
    (row,) = Vectors("what", A, B, "overlap").rows(Given(*runs))
    assert row.verdict == verdict


# ------------------------------------------------------------------------------------- statistics


def test_pairs_of_the_same_training_give_the_spread_of_a_run() -> None:
    evidence = Given(*(result(name, right(n)) for name, n in (("a", 60), ("b", 54), ("c", 62))))
    c = Of("any", {"method": "c"})
    (row,) = Spread("what", ((A, B), (A, c), (A, Of("any", {"method": "absent"})))).rows(evidence)
    # √((0.06² + 0.02²) / 4)
    assert (row.second, row.over, row.verdict) == ("0.032", "2 pairs", "")
    (row,) = Spread("what", ((c, Of("any", {"method": "absent"})),)).rows(evidence)
    assert row.verdict == UNMEASURED


# ------------------------------------------------------------------------------------------ claims


def picks(claims: tuple[Claim, ...]) -> list[Of]:
    """All runs that a claim asks for."""
    found = [
        getattr(check, f.name)
        for claim in claims
        for check in claim.checks
        for f in fields(check)  # type: ignore[arg-type]
    ]
    found += [value.letters for value in found if isinstance(value, Guess)]
    return [value for value in found if isinstance(value, Of)]


@pytest.mark.slow
def test_every_claim_asks_for_points_that_its_experiment_has() -> None:
    grids = {}
    for of in picks(PAPER + QUESTIONS):
        if of.experiment not in grids:
            grids[of.experiment] = [config for _, config in composed((f"experiment={of.experiment}",))]
        assert any(
            all(str(_setting(config, key)) == str(value) for key, value in of.settings.items())
            for config in grids[of.experiment]
        ), of


@pytest.mark.few(1)
@pytest.mark.parametrize("experiment", ["interpolation", "controls"])
def test_a_run_that_an_experiment_starts_from_is_one_of_those_committed(experiment: str) -> None:
    points = [
        (point, replace(config, results_dir=str(RESULTS)))
        for point, config in composed((f"experiment={experiment}",))
    ]
    named = {config.method.run for _, config in points if isinstance(config.method, OfRun)}
    assert named
    assert all(find_run(name, RESULTS).record.steps for name in named)


def _setting(config: RunConfig, key: str) -> Any:
    if key in config.name:
        return config.name[key]
    value: Any = identity(config)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


@pytest.mark.slow
def test_every_claims_figures_exist_and_every_figure_has_a_title() -> None:
    known = {name: figure for name in options("experiment") if (figure := load_experiment(name))}
    assert all(read_spec(figure) and figure["title"] for figure in known.values())
    assert {name for claim in PAPER + QUESTIONS for name in claim.figures} <= set(known)


# -------------------------------------------------------------------------------------------- page


@pytest.mark.slow
def test_the_page_says_what_is_not_measured_and_how_to_measure_it(tmp_path: Path) -> None:
    found = CliRunner().invoke(study, ["--results", str(tmp_path)])
    assert found.exit_code == 0, found.output
    text = (tmp_path / "README.md").read_text("utf-8")
    for claim in PAPER:
        assert f"### {claim.title}\n" in text
        assert f"(#{anchor(claim.title)})" in text
    assert text.count("\nNo run for it yet.\n") == sum(bool(question.checks) for question in QUESTIONS)
    apart = sum(bool(claim.published) for claim in PAPER)
    assert text.count("**not measured**") == len(PAPER) - 1 + apart  # parameters can be counted without a run
    assert "| fig3 | 6 of 6 points | `gdo sweep experiment=fig3` |" in text
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "</html>" in html
    assert "before, with what has changed since: PROTOCOL.md." in html
    assert not OTHER_FILE.search(html)


@pytest.mark.slow
def test_the_page_says_which_analysis_is_missing(tmp_path: Path) -> None:
    title = "multi30k/g_train-d9d6a927/seed0"
    name = f"runs/gemma3_270m/{title}"
    row = f"| table1 | an analysis (fv) | `gdo analyze fv {title}`, which takes its weights |"
    shutil.copytree(RESULTS / name, tmp_path / "with" / name)
    shutil.copytree(RESULTS / name, tmp_path / "without" / name, ignore=shutil.ignore_patterns("analysis"))
    assert row in markdown(Evidence(tmp_path / "without"))
    assert row not in markdown(Evidence(tmp_path / "with"))


def test_a_verdict_stands_with_its_numbers() -> None:
    claim = Claim("T", "S", (Compared("first against second", A, B),))
    (judged,) = judge([claim], Given(result("a", right(60)), result("b", right(20))))
    assert judged.verdict == NOT_SUPPORTED
    assert "−0.400" in judged.rows[0].difference


def test_the_page_says_what_another_seed_would_change() -> None:
    several = [result(name, right(n), seed=seed) for name in "ab" for seed, n in enumerate((60, 64, 62))]
    assert other_seeds(Given(result("a", right(60)), result("b", right(50)))) == []
    (text,) = other_seeds(Given(*several, result("c", right(0))))
    # The variance is 0.0004 in both; t of 4 degrees of freedom is 2.776, times √2 and 0.02.
    assert "0.020 in the task score and 0.020 in WinoGrande" in text
    assert "2 methods" in text
    assert "lie 0.079 or more apart in the first, and 0.079 in the second" in text


def test_a_figure_is_shown_once(tmp_path: Path) -> None:
    (tmp_path / "rates.png").touch()
    (tmp_path / "rates.md").write_text("| x |\n", "utf-8")
    figures = Figures(tmp_path)
    title = "SciTail by learning rate"
    assert figures.show("rates") == [
        f"![{title}](figures/rates.png)",
        f"*{title}* (`gdo plot rates`)",
        "| x |",
    ]
    assert figures.show("rates") == [f"[{title}](figures/rates.png): above."]
    assert figures.show("fig2") == []


def test_a_claim_that_is_checked_in_part_says_so() -> None:
    checks = Compared("one", A, B), Compared("other", A, Of("x", {"method": "none"}))
    (judged,) = judge([Claim("T", "S", checks)], Given(result("a", right(60)), result("b", right(60))))
    assert (judged.verdict, judged.shown, len(judged.made)) == (SUPPORTED, "supported so far", 1)


def test_the_html_needs_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"an image")
    own = "![a](figures/a.png)\n\n[a](figures/a.png) above, [b](b.md), ![c](https://example.org/c.png)\n\n"
    text = page(own, tmp_path)
    assert 'id="figure-a"' in text
    assert '<a href="#figure-a">a</a> above, b, c' in text
    assert f'src="data:image/png;base64,{base64.b64encode(b"an image").decode()}"' in text
    assert not OTHER_FILE.search(text)


def test_a_heading_is_linked_to_by_what_it_says(tmp_path: Path) -> None:
    title = "A & `B` < 2"
    text = page(f"### {title}\n", tmp_path)
    assert f'<h3 id="{anchor(title)}">A &amp; <code>B</code> &lt; 2</h3>' in text


def test_every_table_scrolls_in_a_box_that_the_keyboard_reaches(tmp_path: Path) -> None:
    text = page('### A "claim"\n\n' + table(("x",), [("1",)]), tmp_path)
    boxes = re.findall(r'<div class="box[^>]*tabindex="0" role="region" aria-label="([^"]+)">\s*<table', text)
    assert boxes == ["Table 1: A &quot;claim&quot;", "The curves' points", "All runs"]
    assert text.count("<table") == len(boxes)


def kept(results: Path, evaluation: dict[str, float], **more: Any) -> str:
    """The page of a single run, of which only the named things matter."""
    rest = {"layers": {"chosen": "all"}, "wall_seconds": 1.0, "parameters": {"trainable_share": 0.1}}
    record = result("x", right(1)).record.to_dict() | rest | more
    folder = results / "runs" / "m" / "t" / "x-1" / "seed0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(recorded(record).to_dict()), "utf-8")
    (folder / "metrics.jsonl").write_text(json.dumps({"kind": "evaluation", "step": 0} | evaluation) + "\n")
    return page(f"{record['method_label']}\n", results)


def embedded(text: str) -> Any:
    """The data in the page's script, as a browser reads them."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text.partition("const data = ")[2].partition(";\n")[0], parse_constant=refuse)


@pytest.mark.parametrize("label", ["</script><b>", "<!--<script>", "<img src=x onerror=alert(1)>"])
def test_names_of_runs_cannot_break_out_of_the_text_or_the_script(label: str, tmp_path: Path) -> None:
    text = kept(tmp_path, {EXACT: 0.5}, method_label=label)
    assert embedded(text)["runs"][0]["name"] == f"{label} 1e-3"
    assert label not in text
    assert text.count(label.replace("<", "&lt;").replace(">", "&gt;")) == 2  # in the text and in the table


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_ran_away_does_not_empty_the_chart(loss: float, tmp_path: Path) -> None:
    text = kept(tmp_path, {EXACT: 0.5, "task/loss": loss})
    assert embedded(text)["runs"][0]["evaluations"] == [{"step": 0, EXACT: 0.5, "task/loss": None}]


def test_the_table_of_runs_keeps_apart_what_cannot_be_compared(tmp_path: Path) -> None:
    data = {"source": "local", "test_items": 2126, "probe/winogrande": {"items": 300}}
    text = kept(tmp_path / "a", {}, final={"task/bleu": 30.5}, data=data, layers={"chosen": [1, 4, 16]})
    heads = re.findall(r"<th>(.*?)</th>", text)
    cells = re.findall(r"<td([^>]*)>(.*?)</td>", text)
    row = dict(zip(heads, cells, strict=True))
    told = {key: row[key][1] for key in ("model", "seed", "items", "exact match", "BLEU")}
    assert [*told.values()] == ["tiny", "0", "2126 / 300", "–", "30.500"]
    assert row["layers"] == (' title="1, 4, 16"', "3")
    assert "<td data-sort=" in kept(tmp_path / "b", {})  # all of them: more than any number


def test_the_readmes_table_is_what_the_committed_runs_say() -> None:
    """Figure 2 with Adafactor on SciTail, seed 0."""
    text = (RESULTS.parent / "README.md").read_text("utf-8")
    table_text = text.partition("\n| method | task accuracy |")[2].partition("\n\n")[0]
    shown = [line.strip("| ").split(" | ") for line in table_text.splitlines()[2:]]
    found = []
    for method in ("sft", "g_freeze", "g_train", "mlp_only"):
        (run,) = (r for r in Evidence(RESULTS).runs(Of("fig2_adafactor", {"method": method})) if not r.seed)
        untrained = run.evaluations[0]
        learnt, index = (items_of(run, m).interval().with_ends() for m in (EXACT, INDEX))
        rise = f"{run.final['perplexity/loss'] - untrained['perplexity/loss']:+.3f}".replace("-", "−")
        found.append([learnt, index, f"{run.final[KEPT]:.3f}", rise])
    assert shown[0][1:] == ["–", "1", f"{untrained[KEPT]:.3f}", f"{untrained['perplexity/loss']:.3f}"]
    assert [cells[1:] for cells in shown[1:]] == found


def test_the_table_of_rates_is_what_the_committed_runs_say() -> None:
    """Learnt and kept by method and rate, means over the seeds; † where there are several."""
    methods = ["g_freeze", "g_train", "sft", "mlp_only", "up_only", "lora_matched"]
    text = (RESULTS / "FINDINGS.md").read_text("utf-8")
    table_text = text.partition("\n| method | trained | ")[2].partition("\n\n")[0]
    heading, _, *rows = (line.split(" | ") for line in table_text.replace(" |\n", "\n").splitlines())
    evidence = Evidence(RESULTS)
    for method, (_, trained, *cells) in zip(methods, rows, strict=True):
        for rate, cell in zip(heading, cells, strict=True):
            runs = evidence.runs(Of("frontier", {"method": method, "train.lr": float(rate.strip(" |"))}))
            learnt, kept = (np.mean([found.final[metric] for found in runs]) for metric in (EXACT, KEPT))
            assert cell.strip(" |") == f"{learnt:.3f} / {kept:.3f}" + "†" * (len(runs) > 1), (method, rate)
            assert trained == f"{runs[0].record.parameters.trainable / 1e6:.1f} M"


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(study, ["--results", str(tmp_path / folder)])
    assert result.exit_code == 2, result.exception
    assert f"error: {tmp_path / 'file'}" in result.stderr.splitlines()[-1]
