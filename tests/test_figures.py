"""Claims about what single figures show: the numbers behind their points, from runs made by hand."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import recorded

from gdo_cli.figures import cost, curves, drift, frontier, layers, methods, ranks, rates
from gdo_cli.figures.files import save
from gdo_cli.figures.groups import line_of, sources, standard_error
from gdo_cli.figures.style import BLUE, GREEN, ORANGE, Drawing, line_style, line_styles
from gdo_cli.runs.items import guessing
from gdo_cli.runs.ranking import layer_updates, update_parts
from gdo_cli.runs.record import RunResult
from gdo_cli.stats import frontier as curve
from gdo_cli.support.errors import UserError

KEPT = "winogrande/exact_match"


def run(
    method: str, metrics: list[dict[str, Any]] | None = None, path: str = "runs/a/b/c/seed0", **record: Any
) -> RunResult:
    """A finished run of which only the named things matter."""
    content: dict[str, Any] = {
        "id": f"{method}-id",
        "seed": 0,
        "name": {"model": "tiny", "task": "scitail", "method": method},
        "method_label": method.upper(),
        "final": {"task/exact_match": 0.5, KEPT: 0.25},
        "steps": 2,
        "config": {"method": {"a": 1}, "train": {"lr": 1e-3, "batch_size": 4}},
        "parameters": {"trainable": 2_000_000},
        "data": {"source": "sample"},
        "weights": {},
        "machine": {"gpu": None, "cpu": "A processor"},
        "peak_memory_bytes": 2**31,
    }
    config = content["config"] | record.pop("config", {})
    found = RunResult(Path(path), recorded(content | record | {"config": config}))
    found.__dict__["metrics"] = metrics or []
    return found


def test_a_setting_of_training_that_came_later_tells_lines_apart_where_it_is_recorded() -> None:
    before = run("sft")
    halved = run(
        "sft", config={"train": {"lr": 1e-3, "optimizer": "adafactor", "lr_scale": {"up_proj": 0.5}}}
    )
    keys = ["method", "train.optimizer", "train.lr_scale"]
    assert [line_of(r, keys) for r in (before, halved)] == ["sft", "sft, optimizer=adafactor, up_proj × 0.5"]
    with pytest.raises(UserError, match=r"no setting 'train\.optimiser' to tell runs apart by"):
        line_of(before, ["train.optimiser"])


def drawn(drawing: Drawing, folder: Path) -> list[dict[str, Any]]:
    """The points of a figure that can be saved."""
    assert all(file.stat().st_size > 0 for file in save(drawing, folder / "figure"))
    return drawing.points


def test_each_models_weights_are_told_in_their_own_format() -> None:
    def of(model: str, **source: str) -> RunResult:
        config = {"method": {}, "model": source}
        name = {"model": model, "task": "scitail", "method": "sft"}
        return run("sft", name=name, config=config, weights={"quantisation": "GGUF"} if source else {})

    packaged = of("a", package="a_q4_k_m_gguf")
    chosen = of("b", package="many_q8_0", file="B-135M.Q4_1.gguf")
    unnamed = of("c", package="c_weights")
    line = sources([packaged, chosen, unnamed, of("d")])
    told = "a (Q4_K_M weights, dequantised), b (Q4_1 weights, dequantised), c (GGUF weights, dequantised), d"
    assert line.startswith(f"{told} · ")


@pytest.mark.parametrize(
    ("trained", "told"),
    [
        ([("a", 2e-5, 2), ("b", 2e-5, 2)], " · learning rate 2e-5 · "),
        ([("a", 2e-5, 2), ("b", 2e-5, 2), ("c", 2e-4, 2)], " · learning rate 2e-5 (C: 2e-4) · "),
        (
            [("a", 1e-3, 2), ("b", 2e-5, 2), ("c", 1e-3, 2), ("d", 2e-5, 2), ("e", 2e-5, 2), ("f", 1e-4, 2)],
            " · learning rate 2e-5 (A, C: 1e-3; F: 1e-4) · ",
        ),
        ([("a", 2e-5, 2), ("a", 1e-3, 2), ("b", 5e-6, 2)], " · learning rates 5e-6 to 1e-3 · "),
        ([("a", 2e-5, 2), ("untrained", 1e-3, 0)], " · learning rate 2e-5 · "),
        ([("untrained", 1e-3, 0)], " · BUNDLED SAMPLE, not the real data · seed 0 · "),
    ],
)
def test_methods_trained_at_other_rates_are_named(trained: list[tuple[str, float, int]], told: str) -> None:
    runs = [run(name, config={"train": {"lr": rate}}, steps=steps) for name, rate, steps in trained]
    assert told in f" · {sources(runs)} · "


@pytest.mark.parametrize("setting", ["a", "a_setting_of_a_very_long_name_that_needs_much_room"])
def test_the_names_of_methods_leave_room_for_the_panels_titles(setting: str) -> None:
    parameters = {"added": 0, "trainable": 2_000_000, "trainable_share": 0.5}
    scores = {"task/exact_match": 0.5, KEPT: 0.25, "perplexity/loss": 4.0}
    runs = []
    for value in ("x", "y"):
        config = {"method": {setting: value}, "train": {"lr": 1e-3}}
        runs.append(run("sft", id=value, config=config, final=scores, parameters=parameters))
    figure = methods.draw(runs).figure
    figure.draw_without_rendering()
    titles = [ax.title.get_window_extent() for ax in figure.axes]
    assert len(titles) == 3
    assert titles[-1].x1 <= figure.bbox.x1
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(titles))


# ------------------------------------------------------------------------------- means, errors and looks


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (
            curves.draw,
            ", or tell them apart in the figure (lines: method, columns: task), as by lines: train.lr",
        ),
        (rates.draw, ", or tell them apart in the figure (lines: method, x: steps), as by lines: train.lr"),
        (layers.draw, ""),
        (ranks.draw, ""),
    ],
)
def test_runs_of_different_settings_are_not_averaged_as_if_they_were_seeds(draw: Any, told: str) -> None:
    lines = [
        scores(0, 0.5, 0.25),
        scores(2, 0.75, 0.25),
        rank(2, 0, "weights", 1),
        rank(2, 0, "gradients", 1),
    ]
    runs = [
        run("sft", lines, id=name, config={"train": {"lr": lr}, "steps": 2}, updates=UPDATES, seed=seed)
        for name, lr, seed in (("a", 2e-5, 0), ("a", 2e-5, 1), ("b", 1e-3, 0))
    ]
    draw = partial(draw, x="steps") if draw is rates.draw else draw
    draw(runs[:2])
    with pytest.raises(UserError) as caught:
        draw(runs)
    assert str(caught.value) == (
        "SFT on scitail: runs of different settings would be averaged as if they were seeds "
        f"(train.lr: 2e-5, 1e-3); draw one at a time, as by train.lr=2e-5{told}"
    )


def test_two_models_are_told_apart_by_their_names_alone() -> None:
    lines = [scores(0, 0.5, 0.25), scores(2, 0.75, 0.25)]
    runs = [
        run("sft", lines, id=model, name={"model": model, "task": "qasc", "method": "sft"})
        for model in ("gemma", "smollm")
    ]
    runs[1].record.config["model"] = {"package": "smollm_gguf", "file": "a"}
    with pytest.raises(
        UserError, match=r"seeds \(model: gemma, smollm\); draw one at a time, as by model=gemma"
    ):
        curves.draw(runs)


def test_the_standard_error_of_a_mean_is_of_seeds_and_of_items() -> None:
    def scored(value: float, error: float = 0.0) -> dict[str, float]:
        return {"task/exact_match": value, "task/exact_match_se": error}

    def of(*seeds: dict[str, float]) -> float:
        return standard_error(seeds, "task/exact_match")

    assert of(scored(0.5, 0.03)) == pytest.approx(0.03)
    assert of(scored(0.25), scored(0.75)) == pytest.approx(0.25)
    assert of(scored(0.5, 0.03), scored(0.5, 0.04)) == pytest.approx(((9e-4 + 16e-4) / 2) ** 0.5)
    assert of(scored(0.25, 0.25), scored(0.75, 0.25)) == pytest.approx(0.25 * 2**0.5)
    assert of({"task/exact_match": 30.0}) == of(scored(0.5, math.nan)) == 0  # BLEU; a single item


def test_seeds_that_agree_are_no_more_precise_than_one_of_them() -> None:
    """They answer the same items."""
    seeds = [{"a/b": 0.5, "a/b_se": 0.03}] * 3
    assert standard_error(seeds, "a/b") >= standard_error(seeds[:1], "a/b")


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_line_under_a_figure_says_what_its_bars_are(seeds: int) -> None:
    lines = [scores(0, 0.5, 0.25), scores(2, 0.75, 0.25)]
    parameters = {"added": 0, "trainable": 2_000_000, "trainable_share": 0.5}
    runs = [run("sft", lines, seed=seed, parameters=parameters) for seed in range(seeds)]
    over = "items and seeds" if seeds > 1 else "items"
    for draw, what in ((curves.draw, "bands"), (rates.draw, "bars"), (methods.draw, "bars")):
        under = draw(runs).figure.get_supxlabel().replace("\n", " ")
        assert under.startswith(f"{what}: standard errors, over {over} · ")


def test_lines_that_are_no_methods_have_the_colours_of_none_of_the_papers() -> None:
    runs = [run("g_freeze", config={"layers": layers}) for layers in (1, 3, 5, 7, 10, 15, 20)]
    looks = line_styles(runs, ["layers"])
    assert len({look.color for look in looks.values()}) == 7
    assert not {look.color for look in looks.values()} & {BLUE, ORANGE, GREEN}


def test_a_method_keeps_its_colour_and_marker_where_another_setting_makes_the_dash() -> None:
    runs = [run(method, config={"layers": n}) for n in ("all", 6) for method in ("g_freeze", "mlp_only")]
    looks = line_styles(runs, ["method", "layers"])
    for found in runs:
        own, look = line_style(found.name["method"], 0), looks[line_of(found, ["method", "layers"])]
        assert (look.color, look.marker) == (own.color, own.marker)
        assert look.linestyle == {"all": "-", 6: "--"}[found.record.config["layers"]]
    assert line_styles(runs, ["method"])["mlp_only"] == line_style("mlp_only", 0)


# -------------------------------------------------------------------------------------------- guessing


def answered(folder: Path, name: str, form: str, answers: list[str], items: str = "x") -> RunResult:
    """A finished run on disk with the right answers of its test items."""
    data = {"source": "local", "test": {"sha256": items}}
    of = {"model": "tiny", "task": "mathqa", "method": "sft"}
    path = folder / "runs" / "tiny" / "mathqa" / name / "seed0"
    lines = [scores(0, 0.05, 0.25), scores(2, 0.25, 0.25)]
    found = run("sft", lines, str(path), id=name, name=of, data=data, config={"task": {"answer": form}})
    path.mkdir(parents=True)
    rows = [{"part": "task/test", "answer": a} for a in answers] + [
        {"part": "winogrande", "answer": "No"}
    ] * 9
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (path / "predictions.jsonl.gz").write_bytes(gzip.compress(content))
    (path / "result.json").write_text(json.dumps(found.record.to_dict()), "utf-8")
    return found


def test_who_guesses_gives_the_commonest_answer_or_letter_each_time(tmp_path: Path) -> None:
    text = answered(tmp_path, "text", "text", ["1", "2", "3", "4"])
    assert guessing([text]) is None  # in which place the right options stand is not known
    answered(tmp_path, "elsewhere", "letter", ["a"] * 4, items="y")
    answered(tmp_path, "fewer", "letter", ["a"] * 3)
    letters = answered(tmp_path, "letters", "letter", ["a", "b", "a", "a"])
    assert guessing([letters]) == guessing([text]) == 0.75
    assert guessing([letters, run("sft")]) is None  # on another task
    assert guessing([run("sft")]) is None  # its predictions were not kept


def test_curves_and_rates_show_what_guessing_gets(tmp_path: Path) -> None:
    found = answered(tmp_path, "letters", "letter", ["a", "b", "a", "c"])
    for figure, panel in ((curves.draw([found]).figure, 1), (rates.draw([found]).figure, 0)):
        levels = [line.get_ydata() for line in figure.axes[panel].lines if line.get_label() == "guessing"]
        assert levels == [[0.5, 0.5]]
        assert "guessing" in [text.get_text() for text in figure.legends[0].get_texts()]


# ---------------------------------------------------------------------------------------- frontiers


def random_points(seed: int) -> list[curve.Point]:
    """On a grid, so that some are equal in one score or in both."""
    grid = np.random.default_rng(seed).integers(0, 8, (12, 2))
    return [(float(a), float(b)) for a, b in grid]


@pytest.mark.parametrize("seed", range(5))
def test_a_point_is_dominated_if_another_is_as_good_and_better_in_one(seed: int) -> None:
    points = random_points(seed)
    for (s, r), best in zip(points, curve.undominated(points), strict=True):
        beaten = any((a >= s and b > r) or (a > s and b >= r) for a, b in points)
        assert best is not beaten


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_that_of_all_that_some_point_is_as_good_as(seed: int) -> None:
    """The points lie on a grid: unit cells below and left of one of them can be counted."""
    points = random_points(seed)
    cells = itertools.product(range(8), range(8))
    assert curve.area(points) == sum(any(x < s and y < r for s, r in points) for x, y in cells)


def test_retention_is_read_off_between_the_frontiers_points() -> None:
    points = [(0.0, 0.5), (0.4, 0.5), (0.6, 0.1), (0.8, 0.3), (0.8, 0.2)]  # the frontier: 0.4 and 0.8
    assert curve.retention_at(points, 0.5) == pytest.approx(0.45)
    assert curve.retention_at(points, 0.8) == pytest.approx(0.3)
    assert curve.retention_at(points, 0.1) == pytest.approx(0.5)
    assert curve.retention_at(points, 0.81) is None
    assert curve.matched_score([points, [(0.7, 0.0), (0.2, 0.9)]]) == 0.7


def scores(step: int, score: float, kept: float) -> dict[str, Any]:
    return {"kind": "evaluation", "step": step, "task/exact_match": score, KEPT: kept}


def test_a_frontier_runs_over_rates_and_steps_with_the_seeds_averaged(tmp_path: Path) -> None:
    runs = [
        run("sft", [scores(0, 0.0, 0.5), scores(1, 0.5, 0.125), scores(2, 0.75, 0.25)], seed=0),
        run("sft", [scores(0, 0.0, 0.5), scores(1, 0.25, 0.125), scores(2, 1.0, 0.25)], seed=1),
        run("sft", [scores(0, 0.0, 0.5), scores(1, 0.25, 0.375)], id="slower"),
        run("g_freeze", [scores(0, 0.0, 0.5), scores(2, 0.5, 0.5)]),
    ]
    drawing = frontier.draw(runs)
    points = drawn(drawing, tmp_path)
    sft = {
        (p["id"], p["step"]): (p["score"], p["retention"], p["on_frontier"], p["seeds"])
        for p in points
        if p["line"] == "sft"
    }
    assert sft == {
        ("sft-id", 0): (0.0, 0.5, True, 2),
        ("sft-id", 1): (0.375, 0.125, False, 2),
        ("sft-id", 2): (0.875, 0.25, True, 2),
        ("slower", 0): (0.0, 0.5, True, 1),
        ("slower", 1): (0.25, 0.375, True, 1),
    }
    assert drawing.table is not None
    _, first, second = drawing.table
    # All methods reach 0.5; there SFT keeps 0.375 - 0.25/0.625 of 0.125. Areas are 0.25 and 0.25. Two of the
    # four points that learnt and kept anything have an error over seeds, of 0.125 each.
    assert [first[1:], second[1:]] == [
        ["SFT", "1 to 2", "5", "3", "0.250", "0.875", "0.325 [0.312, 0.338]"],
        ["G_FREEZE", "1", "2", "1", "0.250", "0.500", "0.500 [–, 0.500]"],
    ]


def test_a_frontier_says_what_is_kept_a_standard_error_of_the_score_off() -> None:
    def line(step: int, score: float, kept: float) -> dict[str, Any]:
        return scores(step, score, kept) | {"task/exact_match_se": 0.125}

    runs = [
        run("sft", [line(1, 0.5, 0.5), line(2, 1.0, 0.25)]),
        run("g_freeze", [line(1, 0.25, 0.5), line(2, 0.75, 0.25)]),
    ]
    _, *rows = frontier.draw(runs).table or []
    # At 0.75, 0.875 and 0.625, on lines that fall by 0.5 for every point of the score.
    assert {row[1]: row[-1] for row in rows} == {
        "SFT": "0.375 [0.312, 0.438]",
        "G_FREEZE": "0.250 [–, 0.312]",
    }


def test_a_frontiers_panel_begins_where_its_lines_do_and_cuts_no_point_in_half() -> None:
    beaten, best = scores(0, 0.0, 0.25), [scores(1, 0.5, 0.5), scores(2, 0.75, 0.25), scores(3, 1.0, 0.0)]
    for first, leftmost in ((beaten, 0.5), (scores(0, 0.0, 0.75), 0.0)):
        drawing = frontier.draw([run("sft", [first, *best])])
        assert len(drawing.points) == 4
        ax = drawing.figure.axes[0]
        assert leftmost - 0.1 < ax.get_xlim()[0] < leftmost
        assert ax.get_ylim()[0] < 0
        shown = [np.min(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
        assert min(shown) == leftmost


def test_methods_that_take_a_run_are_a_line_for_each_run(tmp_path: Path) -> None:
    config = {"train": {"lr": 1e-3}}
    runs = [
        run("wise_ft", [scores(0, 0.25, 0.5)], id="a", config=config | {"method": {"run": "sft-1"}}),
        run("wise_ft", [scores(0, 0.5, 0.25)], id="b", config=config | {"method": {"run": "sft-1"}}),
        run("wise_ft", [scores(0, 0.5, 0.5)], id="c", config=config | {"method": {"run": "lora-2"}}),
        run("sft", [scores(2, 0.75, 0.125)], config=config | {"method": {}}),
    ]
    points = drawn(frontier.draw(runs, lines=["method", "method.run"]), tmp_path)
    assert [(p["line"], p["label"], p["id"]) for p in points] == [
        ("wise_ft, run=sft-1", "WISE_FT, run=sft-1", "a"),
        ("wise_ft, run=sft-1", "WISE_FT, run=sft-1", "b"),
        ("wise_ft, run=lora-2", "WISE_FT, run=lora-2", "c"),
        ("sft", "SFT", "sft-id"),
    ]


# --------------------------------------------------------------------------------------------- curves


def test_curves_say_which_setting_tells_their_lines_and_columns_apart(tmp_path: Path) -> None:
    first, later = scores(0, 0.5, 0.25), scores(2, 0.5, 0.25)
    settings = [{"train": train, "with_mlp": mlp} for train in ("all", "new") for mlp in (False, True)]
    runs = [run("sft", [first, later], config={"method": own}) for own in settings]
    drawing = curves.draw(runs, columns="method.train", lines="method.with_mlp")
    drawn(drawing, tmp_path)
    assert [ax.get_title() for ax in drawing.figure.axes[:2]] == ["train=all", "train=new"]
    assert {p["line"] for p in drawing.points} == {"with_mlp=false", "with_mlp=true"}
    drawing = curves.draw(runs[:1], columns="task", lines="method")
    assert drawing.figure.axes[0].get_title() == "Science entailment (SciTail)"
    assert {p["line"] for p in drawing.points} == {"SFT"}


def test_what_is_measured_once_is_a_level_across_the_panel() -> None:
    first, later = scores(0, 0.5, 0.25), scores(2, 0.5, 0.25)
    drawing = curves.draw([run("frozen", [first]), run("sft", [first, later])])
    levels = [
        line.get_ydata() for ax in drawing.figure.axes for line in ax.lines if line.get_label() == "FROZEN"
    ]
    assert levels == [[0.25, 0.25], [0.5, 0.5]]


def test_a_line_looks_and_is_called_the_same_in_every_column() -> None:
    lines = [scores(0, 0.5, 0.25), scores(2, 0.75, 0.25)]
    qasc = {"model": "tiny", "task": "qasc", "method": "sft"}
    config = {"method": {"layers": 1}}
    runs = [run("sft", lines, config=config)] + [
        run("sft", lines, name=qasc, config={"method": {"layers": layers}}) for layers in (6, 1)
    ]
    figure = curves.draw(runs, lines="method.layers").figure
    colors = [{line.get_label(): line.get_color() for line in ax.lines} for ax in figure.axes[:2]]
    assert colors[0]["layers=1"] == colors[1]["layers=1"] != colors[1]["layers=6"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["layers=1", "layers=6"]


def test_a_column_without_a_curve_stands_only_alone() -> None:
    first, later = scores(0, 0.5, 0.25), scores(2, 0.75, 0.25)
    untouched = run("frozen", [first], name={"model": "tiny", "task": "qasc", "method": "frozen"})
    trained = run("sft", [first, later])
    for runs, titles in (
        ([untouched, trained], ["Science entailment (SciTail)"]),
        ([untouched], ["Science Q&A (QASC)"]),
    ):
        axes = curves.draw(runs).figure.axes
        assert [ax.get_title() for ax in axes if ax.get_title()] == titles


# ---------------------------------------------------------------------------------------------- rates


def test_rates_are_drawn_and_told_by_method_and_rate_with_the_seeds_averaged(tmp_path: Path) -> None:
    def at(method: str, lr: float, score: float, kept: float) -> RunResult:
        final = {"task/exact_match": score, "task/exact_match_se": 0.125, KEPT: kept}
        lines = [{"kind": "evaluation", "step": 1, "task/exact_match": score / 2}]
        return run(method, lines, final=final, config={"method": {}, "train": {"lr": lr}})

    runs = [at("sft", 1e-3, 0.5, 0.0), at("g_freeze", 1e-5, 0.25, 0.5)]
    runs += [at("sft", 1e-5, 0.25, 0.5), at("sft", 1e-5, 0.75, 0.25)]
    drawing = rates.draw(runs)
    assert {p["value"] for p in drawn(drawing, tmp_path)} == {0.5, 0.25, 0.375, 0.0}
    assert drawing.table is not None
    assert sorted(drawing.table[1:]) == [
        ["G_FREEZE", "1e-5", "0.125", "0.250 ± 0.125", "0.500 ± 0.000", "1"],
        ["SFT", "1e-3", "0.250", "0.500 ± 0.125", "0.000 ± 0.000", "1"],
        ["SFT", "1e-5", "0.250", "0.500 ± 0.280", "0.375 ± 0.125", "2"],  # |a - b| / 2 over seeds
    ]


def test_no_loss_is_too_high_to_be_seen() -> None:
    final = [{"task/exact_match": 0.5, "perplexity/loss": loss} for loss in (4.5, 91.0)]
    runs = [run("sft", final=f, config={"method": {}, "train": {"lr": 1e-5}}) for f in final]
    for found in ([runs[0]], [runs[1]]):
        ax = rates.draw(found).figure.axes[1]
        low, high = ax.get_ylim()
        assert low < found[0].final["perplexity/loss"] < high


def test_rates_within_a_decade_are_written_at_the_axis() -> None:
    runs = [run("sft", config={"method": {}, "train": {"lr": lr}}) for lr in (5e-5, 2e-5)]
    ax = rates.draw(runs).figure.axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2e-5", "5e-5"]


# --------------------------------------------------------------------------------------------- layers

UPDATES: list[dict[str, Any]] = [
    {"layer": 0, "module": "gate_proj", "norm": 3.0, "relative": 0.1},
    {"layer": 0, "module": "q_proj", "norm": 4.0, "relative": 0.3},
    {"layer": 1, "module": "gate_proj", "norm": 1.0, "relative": 0.5},
    {"layer": 1, "module": "gate_proj", "norm": 2.0, "relative": None},  # a new copy that starts at zero
    {"layer": 2, "module": "fc1", "norm": 0.0, "relative": 0.0},
]


def test_the_parts_of_a_layer_add_up_to_how_far_it_moved() -> None:
    found = run("sft", updates=UPDATES)
    parts = update_parts(found)
    for layer, whole in layer_updates(found).items():
        for measure in ("norm", "relative"):
            total = sum(part[measure] for part in parts if part["layer"] == layer)
            assert total == pytest.approx(whole[measure])
    by_place = {(p["layer"], p["module"]): p["norm"] for p in parts}
    assert by_place[0, "gate_proj"] == pytest.approx(5 * 9 / 25)  # its share of the squared norm


def test_the_ranking_has_a_record_for_each_task_layer_and_matrix(tmp_path: Path) -> None:
    other = {"model": "tiny", "task": "qasc", "method": "sft"}
    twice = [row | {"norm": 2 * row["norm"]} for row in UPDATES]
    runs = [run("sft", updates=UPDATES), run("sft", updates=twice, seed=1), run("frozen", updates=[])]
    points = drawn(layers.draw([*runs, run("sft", updates=UPDATES, name=other)]), tmp_path)
    found = {(p["task"], p["layer"], p["module"]): (p["norm"], p["seeds"]) for p in points}
    assert len(found) == 2 * 4
    assert found["scitail", 0, "q_proj"] == (pytest.approx(1.5 * 16 / 5), 2)
    assert found["qasc", 0, "q_proj"] == (pytest.approx(16 / 5), 1)
    with pytest.raises(UserError, match="none of the runs holds update norms"):
        layers.draw(runs[2:])


# ---------------------------------------------------------------------------------------------- ranks


def rank(step: int, layer: int, of: str, value: float, module: str = "up_proj") -> dict[str, Any]:
    measures = dict.fromkeys(("effective_rank", "participation_ratio", "stable_rank"), value)
    return {
        "kind": "rank",
        "step": step,
        "layer": layer,
        "module": module,
        "of": of,
        "full_rank": 32,
    } | measures


def test_ranks_are_shown_by_layer_and_stage_for_weights_and_gradients(tmp_path: Path) -> None:
    rows = [
        rank(step, layer, of, 1 + step + 10 * layer + 5 * (of == "weights"), module)
        for step in (4, 8)
        for layer in (0, 1)
        for of in ("weights", "gradients")
        for module in ("gate_proj", "up_proj")
    ]
    higher = [row | {"effective_rank": row["effective_rank"] + 1} for row in rows]
    points = drawn(ranks.draw([run("sft", rows), run("sft", higher, seed=1)]), tmp_path)
    assert len(points) == len(rows)
    (one,) = (
        p
        for p in points
        if (p["layer"], p["from_step"], p["to_step"], p["of"], p["module"])
        == (1, 4, 8, "gradients", "gate_proj")
    )
    assert (one["effective_rank"], one["stable_rank"]) == (19.5, 19)
    with pytest.raises(UserError, match=r"evaluation\.ranks=true"):
        ranks.draw([run("sft", [])])


def test_the_earliest_stage_and_the_first_layer_stand_in_the_upper_left() -> None:
    rows = [
        rank(step, layer, of, 10 * step + layer)
        for step in (1, 2)
        for layer in (0, 1, 2)
        for of in ("weights", "gradients")
    ]
    top = ranks.draw([run("sft", rows)]).figure.axes[0]
    assert top.yaxis_inverted()
    assert top.collections[0].get_array().tolist() == [[10, 11, 12], [20, 21, 22]]  # type: ignore[union-attr]


# ----------------------------------------------------------------------------------------------- cost


def test_time_and_memory_are_the_benchmarks_for_the_same_work_and_no_runs_own(tmp_path: Path) -> None:
    settings = {"model": "tiny", "task": "scitail", "method": {"a": 1}, "batch_size": 4}
    (tmp_path / "benchmarks").mkdir()
    rows = [
        {"settings": settings | {"batch_size": 8}, "median": 7.0, "peak_bytes": 1},
        {"settings": settings, "median": 0.5, "peak_bytes": 2**30},
        {"overrides": "of an earlier time", "median": 9.0, "peak_bytes": 1},
    ]
    (tmp_path / "benchmarks" / "methods.json").write_text(json.dumps({"rows": rows}), "utf-8")
    own = str(tmp_path / "runs" / "tiny" / "scitail" / "x" / "seed0")
    steps = [{"kind": "train", "step": i, "seconds": s} for i, s in enumerate((1.0, 3.0, 50.0))]
    other = {"method": {"a": 2}, "train": {"lr": 1e-3, "batch_size": 4}}
    runs = [
        run("sft", steps, path=own),
        run("g_freeze", steps, path=own, config=other),
        run("frozen", path=own, steps=0),
    ]
    drawing = cost.draw(runs, marked=["sft"])
    points = {p["method"]: p for p in drawn(drawing, tmp_path)}
    keys = ("seconds", "gib", "trained", "task/exact_match", KEPT)
    assert [points["SFT"][k] for k in keys] == [0.5, 1.0, 2.0, 0.5, 0.25]
    assert [points["G_FREEZE"][k] for k in keys] == [None, None, 2.0, 0.5, 0.25]
    assert len(points) == 2
    assert drawing.table is not None
    assert drawing.table[2] == ["2 G_FREEZE", "2", "–", "–", "0.500", "0.250"]
    assert "the benchmark's, which has 1 of the 2 methods" in drawing.figure.get_supxlabel()
    assert len(drawing.figure.axes) == 2 * 3
    assert len(cost.draw(runs[1:]).figure.axes) == 2  # the parameters are all that is known
    with pytest.raises(UserError, match="none of the runs trains anything"):
        cost.draw(runs[2:])


@pytest.mark.parametrize("draw", [methods.draw, rates.draw, cost.draw])
def test_tasks_with_different_scores_share_no_axis(draw: Any) -> None:
    config = {"method": {"name": "sft"}, "train": {"lr": 1e-3}}
    runs = [run("sft", id=of, config=config, final={of: 0.5}) for of in ("task/exact_match", "task/bleu")]
    with pytest.raises(UserError, match=r"scored by task/bleu and by task/exact_match; draw one task"):
        draw(runs)


def test_a_probe_that_a_run_has_not_been_through_is_left_out_and_not_zero() -> None:
    config = {"method": {"name": "sft"}, "train": {"lr": 1e-3}}
    parameters = {"added": 0, "trainable": 2_000_000, "trainable_share": 0.5}
    both = {"task/exact_match": 0.5, KEPT: 0.25}
    runs = [
        run("sft", id=name, config=config, final=final, parameters=parameters)
        for name, final in (("a", both), ("b", {"task/exact_match": 0.5}))
    ]
    assert [KEPT in point for point in methods.draw(runs).points] == [False, False]
    assert [KEPT in point for point in methods.draw(runs[:1]).points] == [True]


# -------------------------------------------------------------------------------------------- drift


def test_the_drift_of_one_method_on_two_tasks_is_two_lines(tmp_path: Path) -> None:
    number = {"value": 0.5, "se": 0.1}
    shots = {"0": {"exact_match": 0.5, "exact_match_se": 0.1, "choice": 0.5, "choice_se": 0.1}}
    hidden = {"cka": [1.0, 0.9], "cosine": [1.0, 0.8]}
    found = {
        "hidden": {"probes": hidden, "task": hidden},
        "kl": dict.fromkeys(("task_answer", "task_prompt", "text"), number),
        "winogrande": {"base": shots, "run": shots},
    }
    runs = []
    for task in ("scitail", "qasc"):
        name = {"model": "tiny", "task": task, "method": "g_freeze"}
        runs.append(run("g_freeze", path=str(tmp_path / task), id=task, name=name))
        (tmp_path / task).mkdir()
        runs[-1].save_analysis("drift", found)
    lines = {point["line"] for point in drawn(drift.draw(runs), tmp_path)}
    assert lines == {"untouched model", "G_FREEZE, task=scitail", "G_FREEZE, task=qasc"}
