"""Claims about ``gdo plot``: what is drawn from which runs, the same bytes every time, what is missing."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import recorded
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.plot import plot_all
from gdo_cli.config.build import load_experiment
from gdo_cli.config.grid import load_grid
from gdo_cli.config.run_config import RunConfig
from gdo_cli.figures.experiments import read_spec
from gdo_cli.runs.folder import RunFolder
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity

HEAD = """# @package _global_
defaults:
  - override /model: tiny
  - override /data: sample
"""
CURVES = """sweep: {method: "sft,g_freeze", seed: "0,1"}
figure: {kind: curves, title: Mine, columns: task, lines: method}
"""
RATES = """sweep: {method: sft, train.lr: "1e-3,1e-5"}
figure: {kind: rates, title: Rates, lines: method}
"""
SHARES = """sweep: {method: output_mix, method.share: "0.75,0.25"}
figure: {kind: rates, title: Shares, x: method.share}
"""
METHODS = """sweep:
  - {method: "sft,g_freeze", seed: "0,1"}
  - {method: g_freeze, train.lr: 1e-5}
figure: {kind: methods, title: Methods, marked: [g_freeze]}
"""
BOTH = """sweep: {method: lora}
figure:
  {kind: rates, title: Both, x: [method.share, train.lr], with: [{experiment: mine, overrides: [seed=0]},
  {experiment: byrate}, {experiment: byrate, overrides: [train.lr=1e-3]}]}
"""
COST = "sweep: {method: frozen}\nfigure: {kind: cost, title: Nothing trained}\n"
METRICS = ("task/exact_match", "winogrande/exact_match")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own experiments, with a figure and one without; to be read only."""
    conf = tmp_path_factory.mktemp("conf")
    folder = conf / "experiment"
    folder.mkdir()
    for name, text in {
        "mine": CURVES,
        "byrate": RATES,
        "shares": SHARES,
        "methods": METHODS,
        "both": BOTH,
        "cost": COST,
        "bare": "",
    }.items():
        (folder / f"{name}.yaml").write_text(HEAD + text, "utf-8")
    return conf


@pytest.fixture
def changeable(own: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(own, tmp_path / "conf"))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def value(config: RunConfig, step: int) -> float:
    """The score that a run is given: it tells method, seed and step."""
    return 0.25 + 0.125 * (config.name["method"] == "sft") + 0.0625 * config.seed + 0.125 * step


def finish(config: RunConfig, steps: int = 1) -> None:
    """A finished run with scores of our own."""
    folder = RunFolder(config.path)
    with folder.lock():
        folder.start({})
        for step in (0, 1):
            scores = dict.fromkeys(METRICS, value(config, step))
            errors = {f"{metric}_se": 0.03125 for metric in METRICS}
            folder.log({"kind": "evaluation", "step": step} | scores | errors)
        folder.seal(
            recorded(
                {
                    "id": config.id,
                    "seed": config.seed,
                    "name": config.name,
                    "method_label": config.method.label,
                    "config": identity(config),
                    "steps": steps,
                    "parameters": {"added": 0, "trainable": 1_500_000, "trainable_share": 0.25},
                    "final": scores | errors,
                    "data": {"source": config.data.source},
                    "weights": {"source": "random"},
                    "machine": {"gpu": None, "cpu": "A processor", "cores": 2},
                }
            )
        )


def grid(name: str, own: Path, results: Path) -> list[RunConfig]:
    return [replace(run, results_dir=str(results)) for run in composed(name, own)]


@cache
def composed(name: str, own: Path) -> list[RunConfig]:
    """The points of an experiment in a folder that does not change."""
    return [run for _, run in load_grid([f"experiment={name}"], own)]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def gdo(*words: str) -> Any:
    return CliRunner().invoke(app, ["plot", *words], env={"COLUMNS": "400"})


# ------------------------------------------------------------------------------------------ the files


def test_a_figure_is_a_png_a_pdf_and_the_table_of_its_points(own: Path, results: Path) -> None:
    for config in grid("mine", own, results):
        finish(config)
    files = plot_all(["mine"], results, own)
    assert files == [results / "figures" / f"mine.{kind}" for kind in ("png", "pdf", "csv")]
    png, pdf, table = files
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    points = rows(table)
    assert len(points) == 2 * 2 * 2  # metrics, methods, steps
    assert {(p["panel"], p["seeds"]) for p in points} == {("scitail", "2")}
    last = next(p for p in points if (p["line"], p["metric"], p["step"]) == ("SFT", METRICS[0], "1"))
    # Seeds 0 and 1 score 0.5 and 0.5625, each with 1/32 over items: as much as half their distance.
    assert float(last["value"]) == 0.53125
    assert float(last["se"]) == pytest.approx(0.03125 * 2**0.5)


def test_with_one_seed_the_error_is_that_over_items(own: Path, results: Path) -> None:
    for config in grid("mine", own, results):
        if config.seed == 0:
            finish(config)
    *_, table = plot_all(["mine"], results, own)
    assert {(p["seeds"], float(p["se"])) for p in rows(table)} == {("1", 0.03125)}


def test_rates_are_drawn_in_their_order(own: Path, results: Path) -> None:
    for config in grid("byrate", own, results):
        finish(config)
    *_, table = plot_all(["byrate"], results, own)
    points = [p for p in rows(table) if p["metric"] == METRICS[0]]
    assert [(float(p["lr"]), float(p["value"])) for p in points] == [(1e-5, 0.5), (1e-3, 0.5)]


def test_any_number_may_stand_across(own: Path, results: Path) -> None:
    for config in grid("shares", own, results):
        finish(config)
    *_, table = plot_all(["shares"], results, own)
    assert [p["share"] for p in rows(table) if p["metric"] == METRICS[0]] == ["0.25", "0.75"]


@pytest.mark.slow
def test_a_figure_takes_in_the_runs_of_other_experiments_each_once(own: Path, results: Path) -> None:
    for config in (*grid("mine", own, results), *grid("byrate", own, results), *grid("both", own, results)):
        if RunFolder(config.path).load() is None:
            finish(config)
    *_, table = plot_all(["both"], results, own)
    points = [(p["line"], float(p["share"]), p["seeds"]) for p in rows(table) if p["metric"] == METRICS[0]]
    # sft at 1e-3 belongs to both of the others, and to one of them twice.
    assert sorted(points) == [
        ("G-Freeze", 0.001, "1"),
        ("LoRA", 0.001, "1"),
        ("SFT", 1e-05, "1"),
        ("SFT", 0.001, "1"),
    ]


@pytest.mark.slow
def test_methods_stand_below_each_other_with_a_table_the_best_first(own: Path, results: Path) -> None:
    for config in grid("methods", own, results):
        finish(config)
    *_, table = plot_all(["methods"], results, own)
    points = rows(table)
    # Namesakes are told apart by what differs; seeds 0 and 1 of a method score 1/16 apart.
    found = [(p["method"], float(p[METRICS[0]]), p["seeds"]) for p in points]
    assert found[0] == ("SFT", 0.53125, "2")
    assert sorted(found[1:]) == [("G-Freeze, lr=1e-3", 0.40625, "2"), ("G-Freeze, lr=1e-5", 0.375, "1")]
    heading, rule, first, *_ = table.with_suffix(".md").read_text("utf-8").splitlines()
    assert heading == "| method | rate | added | trained | Exact match | WinoGrande, exact match | seeds |"
    assert rule == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert first == "| SFT | 1e-3 | 0.0 M | 1.5 M (25.0 %) | 0.531 ± 0.044 | 0.531 ± 0.044 | 2 |"


@pytest.mark.slow
def test_runs_at_two_rates_are_not_taken_for_seeds(own: Path, results: Path) -> None:
    for lr in ("1e-3", "1e-5"):
        for _, config in load_grid(["experiment=mine", f"train.lr={lr}", f"results_dir={results}"], own):
            finish(config)
    words = ("--results", str(results), "--config-dir", str(own))
    result = gdo("mine", "train.lr=1e-3,1e-5", *words)
    assert result.exit_code == 2
    assert "mine: SFT on scitail: runs of different settings would be averaged" in result.stderr
    assert "(train.lr: 1e-3, 1e-5); draw one at a time, as by train.lr=1e-3, or tell" in result.stderr
    assert "apart in the figure (lines: method, columns: task), as by lines: train.lr" in result.stderr
    assert gdo("mine", "train.lr=1e-5", *words).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frontier", "few_layers"])
def test_a_frontier_of_one_seed_lies_beside_none_of_several(name: str) -> None:
    """The best of means over seeds is lower than the best of single runs: noise lifts the latter."""
    others = read_spec(load_experiment(name)).others
    words = [[f"experiment={name}"], *([f"experiment={other}", *overrides] for other, overrides in others)]
    assert {config.seed for of in words for _, config in load_grid(of)} == {0}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["mine", "byrate", "methods"])
def test_the_same_runs_give_the_same_bytes(own: Path, results: Path, name: str) -> None:
    for config in grid(name, own, results):
        finish(config)
    first = [file.read_bytes() for file in plot_all([name], results, own)]
    assert [file.read_bytes() for file in plot_all([name], results, own)] == first


@pytest.mark.slow
def test_runs_whose_data_source_was_found_out_are_found_again(
    changeable: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``data=auto`` is decided when a run starts, and a run is known by what was decided."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("GDO_DATA_DIR", raising=False)
    file = changeable / "experiment" / "mine.yaml"
    file.write_text(file.read_text("utf-8").replace("/data: sample", "/data: auto"), "utf-8")
    for config in grid("mine", changeable, results):
        finish(config)
    assert len(plot_all(["mine"], results, changeable)) == 3


# ------------------------------------------------------------------------------------- what is missing


def test_missing_points_are_named_with_the_command_that_fills_them_in(own: Path, results: Path) -> None:
    finish(grid("mine", own, results)[0])
    result = gdo("mine", "--results", str(results), "--config-dir", str(own))
    assert result.exit_code == 0, result.exception
    assert "from 1 run" in result.stdout
    assert "mine: 3 points missing" in result.stdout
    assert "gdo sweep experiment=mine" in result.stdout


def test_overrides_choose_among_the_runs_and_stand_in_the_command(own: Path, results: Path) -> None:
    for config in grid("mine", own, results):
        finish(config)
    result = gdo("mine", "seed=1,2", "--results", str(results), "--config-dir", str(own))
    assert "from 2 runs" in result.stdout
    assert "gdo sweep experiment=mine seed=1,2" in result.stdout


def test_a_figure_without_any_run_is_refused(own: Path, results: Path) -> None:
    with pytest.raises(UserError, match="mine: no finished run of its 4 points"):
        plot_all(["mine"], results, own)
    assert not (results / "figures").exists()


@pytest.mark.parametrize("name", ["mien", "bare"])
def test_an_unknown_figure_is_refused_with_those_there_are(own: Path, results: Path, name: str) -> None:
    result = gdo(name, "--results", str(results), "--config-dir", str(own))
    assert result.exit_code == 2
    assert f"figure={name}: unknown" in result.stderr
    assert "byrate" in result.stderr
    assert "fig2" in result.stderr


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("figure", "told"),
    [
        ("curves", "figure=curves: must be options with a kind, as {kind: curves}"),
        ("{title: Mine}", "figure.kind=: unknown; choose from: cost, curves, drift, frontier,"),
        ("{kind: curve}", "figure.kind=curve: unknown; did you mean 'curves'?"),
        ("{kind: curves, line: task}", "figure.line: curves has no such option; did you mean 'lines'?"),
        ("{kind: curves, lines: [task]}", "figure.lines=['task']: must be a word"),
        ("{kind: curves, title: 4}", "figure.title=4: must be text"),
        ("{kind: frontier, lines: 3}", "figure.lines=3: must be a word or a list, each a word"),
        ("{kind: methods, marked: sft}", "figure.marked=sft: must be a list, each a word"),
        (
            "{kind: function_vectors, published: {scitail: {sft: 2}}}",
            "must be {name: {name: [a number, a number], …}, …}",
        ),
        ("{kind: curves, with: seeds}", "figure.with=seeds: must be an experiment's, as {experiment:"),
        ("{kind: curves, with: [{overrides: []}]}", "figure.with={'overrides': []}: must be an experiment's"),
        ("{kind: curves, with: {experiment: sead}}", "figure.with.experiment=sead: unknown"),
        ("{kind: curves, columns: tusk}", "no setting 'tusk' to tell runs apart by; did you mean 'task'?"),
        ("{kind: curves, lines: train.rate}", "no setting 'train.rate' to tell runs apart by; "),
        ("{kind: frontier, lines: task.name.x}", "no setting 'task.name.x' to tell runs apart by"),
        ("{kind: curves, retention: arc}", "retention=arc: unknown; choose from: task/exact_match, winog"),
        ("{kind: cost, retention: arc}", "retention=arc: unknown; choose from: task/exact_match, winog"),
        ("{kind: frontier, retention: arc}", "retention=arc: unknown; choose from: task/exact_match, winog"),
        ("{kind: rates, x: method}", "x=method: sft of scitail/sft-"),
        ("{kind: ranks, measure: rank}", "measure=rank: unknown; did you mean"),
    ],
)
def test_a_wrong_figure_is_refused_in_one_line(
    own: Path, changeable: Path, results: Path, figure: str, told: str
) -> None:
    (changeable / "experiment" / "mine.yaml").write_text(
        f"{HEAD}sweep: {{method: sft}}\nfigure: {figure}\n", "utf-8"
    )
    finish(next(config for config in grid("mine", own, results) if config.name["method"] == "sft"))
    result = gdo("mine", "--results", str(results), "--config-dir", str(changeable))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: mine: ")
    assert told in result.stderr
    assert not (results / "figures").exists()


@pytest.mark.slow
def test_several_figures_are_drawn_side_by_side_as_one_by_one(
    own: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for config in grid("mine", own, results):
        finish(config)
    names = ["mine", "byrate"]
    alone = [(file, file.read_bytes()) for name in names for file in plot_all([name], results, own)]
    said = capsys.readouterr().out
    assert [(file, file.read_bytes()) for file in plot_all(names, results, own)] == alone
    assert capsys.readouterr().out == said


@pytest.mark.slow
def test_without_a_name_all_figures_that_have_runs_are_drawn(
    own: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for config in (*grid("mine", own, results), *grid("cost", own, results)):
        finish(config, steps=1 if config.method.trains else 0)
    drawn = {file.stem for file in plot_all([], results, own)}
    assert drawn == {"mine", "byrate", "methods"}  # these two have points in common with it
    assert "cost: none of the runs trains anything" in capsys.readouterr().out
