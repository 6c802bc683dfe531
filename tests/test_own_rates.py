"""The rule by which rates are chosen: the smallest within one standard error of the best."""

from __future__ import annotations

import math

import pytest
from study.own_rates import Rated, by_row, rated, told, within_one_standard_error
from test_figures import run

from gdo_cli.runs.record import RunResult

SCORE, ERROR = "task/exact_match", "task/exact_match_se"


def at(
    lr: float, seed: int, score: float, error: float = 0.0, layers: object = "all", **more: str
) -> RunResult:
    """A decayed run with this score at its end, and a better one before."""
    lines = [
        {"kind": "evaluation", "step": step, SCORE: s, ERROR: error} for step, s in ((1, 0.99), (2, score))
    ]
    config = {"train": {"lr": lr, "lr_scheduler": "linear"}, "layers": layers}
    return run("sft", lines, seed=seed, config=config, **more)


@pytest.mark.parametrize(
    ("error", "chosen"),
    [(0.0, 5e-5), (0.009, 5e-5), (0.011, 2e-5), (0.2, 1e-5)],
)
def test_the_smallest_rate_within_one_standard_error_of_the_best(error: float, chosen: float) -> None:
    rates = {1e-5: Rated(0.70, 0.5), 2e-5: Rated(0.79, 0.0), 5e-5: Rated(0.80, error), 2e-4: Rated(0.6, 9.0)}
    assert within_one_standard_error(rates) == chosen


def test_a_rate_is_judged_by_the_end_of_its_seeds_with_their_error_over_items_and_seeds() -> None:
    found = rated([at(1e-5, 0, 0.5, 0.03), at(1e-5, 1, 0.6, 0.03)])
    assert found.score == pytest.approx(0.55)
    assert found.error == pytest.approx(math.sqrt(0.03**2 + 0.05**2))  # variance 0.005, of two seeds


def test_rows_are_told_apart_by_task_method_and_layers_and_one_seed_does_not_count() -> None:
    runs = [at(lr, seed, 0.5 + 1e3 * lr) for lr in (1e-5, 2e-5) for seed in (0, 1)]
    runs += [at(5e-5, 0, 0.9), at(1e-5, 0, 0.5, layers=6), at(1e-5, 1, 0.5, layers=6)]
    rows = by_row(runs)
    assert {row: list(rates) for row, rates in rows.items()} == {
        ("scitail", "sft", "all"): [1e-5, 2e-5],
        ("scitail", "sft", "6"): [1e-5],
    }
    line = told(("scitail", "sft", "all"), rows["scitail", "sft", "all"])
    assert line[3] == "2e-5"
    assert line[-1] == "a higher rate may be better"
    assert told(("scitail", "sft", "6"), rows["scitail", "sft", "6"])[4] == "too few runs"


def test_a_row_whose_lowest_rate_is_chosen_says_so() -> None:
    rates = {1e-5: Rated(0.80, 0.02), 2e-5: Rated(0.81, 0.02), 5e-5: Rated(0.7, 0.02)}
    assert told(("a", "b", "all"), rates)[3:] == [
        "1e-5",
        "1e-5: 0.800 ± 0.020, 2e-5: 0.810 ± 0.020, 5e-5: 0.700 ± 0.020",
        "a lower rate may do as well",
    ]
