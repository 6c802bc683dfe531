"""Claims about the retention index: its value, its error by bootstrap and by algebra, where it is not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunFactory, recorded
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.compare import Cell, compare
from gdo_cli.data.dataset import Dataset
from gdo_cli.evaluation.untouched import Untouched
from gdo_cli.experiment import run as experiment
from gdo_cli.probes.arc_easy import ARCEasy
from gdo_cli.probes.base import Probe
from gdo_cli.probes.lambada import Lambada
from gdo_cli.probes.piqa import PIQA
from gdo_cli.runs.items import items_of, over_seeds
from gdo_cli.runs.matched import kept_at_distance, kept_at_score
from gdo_cli.runs.record import RunResult, read_run
from gdo_cli.stats.frontier import kept_on_reaching
from gdo_cli.stats.metrics import INDEX
from gdo_cli.stats.retention import Accuracies, has_head_room, index_by_item, retained, retention_index

CHANCES = (0.25, 0.5, 0.0)


def drawn(rng: np.random.Generator, n: int, before: float, after: float, together: float = 0.7) -> Any:
    """Right or wrong of two models with these accuracies, which share their luck to some degree."""
    luck = rng.random(n)
    own = np.where(rng.random(n) < together, luck, rng.random(n))
    return (luck < before).astype(float), (own < after).astype(float)


def three(seed: int, n: tuple[int, int, int] = (300, 250, 200)) -> list[Accuracies]:
    rng = np.random.default_rng(seed)
    rates = ((0.56, 0.5), (0.68, 0.66), (0.45, 0.3))
    return [
        Accuracies(chance, *map(list, drawn(rng, size, *pair)))
        for chance, size, pair in zip(CHANCES, n, rates, strict=True)
    ]


def index_of(parts: list[tuple[float, NDArray[np.float64], NDArray[np.float64]]]) -> float:
    return float(np.mean([(after.mean() - c) / (before.mean() - c) for c, before, after in parts]))


def bootstrap(probes: list[Accuracies], other: list[Accuracies] | None = None, times: int = 4000) -> Any:
    """The index, or the difference of two, of items drawn again from each probe, by force."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(times):
        picks = [rng.integers(len(p.after), size=len(p.after)) for p in probes]
        values = [
            index_of(
                [
                    (p.chance, np.asarray(p.before)[pick], np.asarray(p.after)[pick])
                    for p, pick in zip(each, picks, strict=True)
                ]
            )
            for each in ((probes,) if other is None else (probes, other))
        ]
        found.append(values[-1] - values[0] if other else values[0])
    return np.array(found)


# ------------------------------------------------------------------------------------- the number


def test_the_index_is_the_mean_of_accuracies_above_chance_as_shares_of_the_untouched_models() -> None:
    arc = Accuracies(0.25, [1, 1, 1, 0], [1, 1, 0, 0])  # (0.5 - 0.25) / (0.75 - 0.25)
    piqa = Accuracies(0.5, [1, 1, 1, 1], [1, 1, 1, 0])  # (0.75 - 0.5) / (1 - 0.5)
    lambada = Accuracies(0.0, [1, 0], [1, 1])  # 1 / 0.5
    assert [retained(p) for p in (arc, piqa, lambada)] == [0.5, 0.5, 2.0]
    assert retention_index([arc, piqa, lambada]).value == 1.0


def test_the_untouched_model_keeps_all_of_itself_without_error_and_a_guesser_nothing() -> None:
    same = [Accuracies(p.chance, p.before, p.before) for p in three(0)]
    assert (retention_index(same).value, retention_index(same).se) == (1.0, 0.0)
    quarter = Accuracies(0.25, [1.0] * 8, [1.0, 1.0] + [0.0] * 6)
    half = Accuracies(0.5, [1.0] * 8, [1.0, 0.0] * 4)
    assert retention_index([quarter, half]).value == 0.0


def test_the_error_of_one_probe_is_that_of_a_ratio_of_two_shares() -> None:
    """Var = (p(1-p) + R²·q(1-q) - 2R·(r - pq)) / ((q - c)²·(n - 1)), r the share that both get right."""
    for seed in range(5):
        probe = three(seed)[0]
        q, p = np.mean(probe.before), np.mean(probe.after)
        both = np.mean(np.multiply(probe.before, probe.after))
        ratio = (p - probe.chance) / (q - probe.chance)
        top = p * (1 - p) + ratio**2 * q * (1 - q) - 2 * ratio * (both - p * q)
        error = np.sqrt(top / (len(probe.after) - 1)) / (q - probe.chance)
        assert retention_index([probe]).se == pytest.approx(error)


def test_errors_of_independent_probes_add_up_in_squares() -> None:
    probes = three(3)
    errors = [retention_index([probe]).se for probe in probes]
    assert retention_index(probes).se == pytest.approx(np.sqrt(np.square(errors).sum()) / 3)


@pytest.mark.few(1)
@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_that_of_a_bootstrap_of_the_index_itself(seed: int) -> None:
    probes = three(seed)
    assert retention_index(probes).se == pytest.approx(bootstrap(probes).std(), rel=0.08)


def test_the_error_is_the_spread_of_repeated_draws() -> None:
    found = [retention_index(three(seed)) for seed in range(400)]
    spread = np.std([each.value for each in found], ddof=1)
    assert np.mean([each.se for each in found]) == pytest.approx(spread, rel=0.1)


def test_pairing_makes_the_error_smaller() -> None:
    probes = three(1)
    rng = np.random.default_rng(0)
    apart = [Accuracies(p.chance, p.before, list(rng.permutation(p.after))) for p in probes]
    assert retention_index(apart).value == pytest.approx(retention_index(probes).value)
    assert retention_index(probes).se < 0.8 * retention_index(apart).se


def test_item_by_item_it_has_the_indexs_mean_and_error() -> None:
    probes = three(2)
    values, found = index_by_item(probes), retention_index(probes)
    assert len(values) == found.n == 750
    assert np.mean(values) == pytest.approx(found.value)
    assert np.std(values, ddof=1) / np.sqrt(len(values)) == pytest.approx(found.se, rel=0.01)


def test_two_models_are_compared_item_by_item_as_a_bootstrap_of_the_difference_does() -> None:
    probes = three(4)
    rng = np.random.default_rng(5)
    better = [
        Accuracies(p.chance, p.before, list(np.maximum(p.after, rng.random(len(p.after)) < 0.1)))
        for p in probes
    ]
    differences = np.subtract(index_by_item(better), index_by_item(probes))
    wanted = bootstrap(probes, better)
    gap = retention_index(better).value - retention_index(probes).value
    assert differences.mean() == pytest.approx(gap)
    assert differences.std(ddof=1) / np.sqrt(len(differences)) == pytest.approx(wanted.std(), rel=0.08)


# ------------------------------------------------------------------------------------- head-room


@pytest.mark.parametrize(
    ("right", "n", "chance", "enough"),
    [
        (168, 300, 0.25, True),  # ARC-Easy
        (200, 300, 0.5, True),
        (156, 300, 0.5, False),  # four points above a coin
        (150, 300, 0.5, False),
        (100, 300, 0.5, False),
        (0, 300, 0.0, False),
        (2, 300, 0.0, False),
        (40, 300, 0.0, True),
        (20, 20, 0.5, True),
        (1, 1, 0.0, False),
    ],
)
def test_there_is_head_room_four_standard_errors_above_chance(
    right: int, n: int, chance: float, enough: bool
) -> None:
    assert has_head_room([1.0] * right + [0.0] * (n - right), chance) is enough


def probes() -> dict[str, Probe]:
    named = (("arc_easy", ARCEasy), ("piqa", PIQA), ("lambada", Lambada))
    return {name: kind(Dataset(name)) for name, kind in named}


def rows(**right: list[float]) -> list[dict[str, Any]]:
    key = {"lambada": "last_word"}
    return [
        {"part": part, "item": i, key.get(part, "likelihood"): value}
        for part, values in right.items()
        for i, value in enumerate(values)
    ]


def share(right: int, n: int = 300) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def test_a_probe_that_the_untouched_model_guesses_is_left_out_and_told() -> None:
    untouched = Untouched(probes(), rows(arc_easy=share(180), piqa=share(155), lambada=share(150)))
    assert untouched.chances == {"arc_easy/likelihood": 0.25, "lambada/last_word": 0.0}
    found = untouched.retention(rows(arc_easy=share(180), piqa=share(0), lambada=share(75)))
    assert found[INDEX] == pytest.approx((1 + 0.5) / 2)
    assert "left out: piqa/likelihood (untouched 0.517 of 300 items, guessing 0.5)" in str(untouched)
    assert untouched.record()["left_out"] == {"piqa/likelihood": "untouched 0.517 of 300 items, guessing 0.5"}


def test_an_index_is_over_two_probes_or_more() -> None:
    guessed = {"piqa": share(155), "lambada": share(0)}
    untouched = Untouched(probes(), rows(arc_easy=share(180), **guessed))
    assert untouched.retention(rows(arc_easy=share(100), **guessed)) == {}
    assert "over nothing" in str(untouched)
    alone = Untouched({"arc_easy": probes()["arc_easy"]}, rows(arc_easy=share(180)))
    assert (alone.counted, alone.retention(rows(arc_easy=share(180)))) == ({}, {})


def test_without_all_probes_asked_there_is_no_index() -> None:
    untouched = Untouched(probes(), rows(arc_easy=share(180), piqa=share(200), lambada=share(150)))
    assert untouched.retention(rows(arc_easy=share(180), piqa=share(200))) == {}


# ------------------------------------------------------------------------------------- in a whole run

WORDS = ("probe=[winogrande,arc_easy,piqa,lambada]", "train.lr=1e-2", "save_weights=false", "seed=3")
FEW = tuple(f"probe.{name}.items=24" for name in ("arc_easy", "piqa", "lambada"))


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model has head-room over what is worse than guessing."""
    for kind, chance in ((ARCEasy, -1.0), (PIQA, -1.5), (Lambada, -2.0)):
        monkeypatch.setattr(kind, "chance", chance)


def by_hand(run: RunResult, after: list[dict[str, Any]]) -> float:
    chances = {("arc_easy", "likelihood"): -1.0, ("piqa", "likelihood"): -1.5, ("lambada", "last_word"): -2.0}
    shares = []
    for (part, key), chance in chances.items():
        old, new = ([row[key] for row in each if row["part"] == part] for each in (run.untouched, after))
        assert len(old) == len(new) == 24
        shares.append((sum(new) / 24 - chance) / (sum(old) / 24 - chance))
    return float(sum(shares) / 3)


@pytest.mark.few(1)
@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("method", ["sft", "lora"])  # the latter's step 0 is the base up to rounding alone
def test_a_run_tells_at_each_evaluation_how_much_is_kept(tiny_run: RunFactory, method: str) -> None:
    run = experiment.run(tiny_run(f"method={method}", *WORDS, *FEW))
    kept = [line[INDEX] for line in run.evaluations]
    assert kept[0] == 1.0
    assert run.final[INDEX] == kept[-1] == pytest.approx(by_hand(run, run.predictions))
    assert run.final[f"{INDEX}_se"] > 0
    assert run.record.data["retention"]["chances"] == {
        "arc_easy/likelihood": -1.0,
        "piqa/likelihood": -1.5,
        "lambada/last_word": -2.0,
    }
    assert {row["part"] for row in run.untouched} == {"winogrande", "arc_easy", "piqa", "lambada"}
    moved = [line["update/distance"] for line in run.evaluations]
    assert moved[0] == 0.0
    assert 0 < moved[1] < moved[2]
    found = items_of(run, INDEX)
    assert np.mean(found.values) == pytest.approx(run.final[INDEX])


# With k = 3 the base is measured before the run begins, which then knows the signature of its BLEU.
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("method=sft",), pytest.param(("method=g_freeze", "method.k=3", "task=mtnt"), marks=pytest.mark.slow)],
    ids=" ".join,
)
@pytest.mark.usefixtures("lenient")
def test_a_run_that_goes_on_from_a_checkpoint_remembers_the_untouched_model(
    tiny_run: RunFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    words = (*words, *WORDS, *FEW, "train.checkpoint_every=1")
    whole = experiment.run(tiny_run(*words, results_dir=tmp_path / "whole"))
    monkeypatch.setenv("GDO_CACHE_DIR", str(tmp_path / "cache"))  # empty: this run measures the base itself
    config = tiny_run(*words, results_dir=tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(experiment._Run, "final", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
    capsys.readouterr()
    again = experiment.run(config)
    assert "going on from step" in capsys.readouterr().err
    assert again.metrics[0] == whole.metrics[0]
    assert (again.final, again.untouched) == (whole.final, whole.untouched)
    assert again.record.data == whole.record.data


def test_a_random_model_has_nothing_to_lose_and_the_run_says_so(
    tiny_run: RunFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run = experiment.run(tiny_run("method=sft", *WORDS, *FEW, "train.steps=1"))
    assert INDEX not in run.final
    assert set(run.record.data["retention"]["left_out"]) >= {"piqa/likelihood", "lambada/last_word"}
    assert "retention index over nothing" in capsys.readouterr().err
    shown = CliRunner().invoke(app, ["show", str(run.path)], env={"COLUMNS": "200"})
    assert "guessing 0.5" in " ".join(shown.output.split())


# ------------------------------------------------------------------------------------- shown


def write_run(folder: Path, probes: list[Accuracies], half: str | None = None) -> str:
    """A finished run by hand, with the items of two probes."""
    names = (("arc_easy", "likelihood"), ("piqa", "likelihood"), ("lambada", "last_word"))
    folder.mkdir(parents=True)
    rows = {
        which: [
            {"part": part, "item": i, key: value}
            for (part, key), probe in zip(names, probes, strict=False)
            for i, value in enumerate(getattr(probe, which))
        ]
        for which in ("before", "after")
    }
    for which, name in (("before", "untouched"), ("after", "predictions")):
        text = "".join(json.dumps(row) + "\n" for row in rows[which])
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = retention_index(probes)
    method, seed = folder.parent.name.partition("-")[0], int(folder.name.removeprefix("seed"))
    measures = {f"{part}/{key}": p.chance for (part, key), p in zip(names, probes, strict=False)}
    record = {
        "id": f"{method}1234",
        "seed": seed,
        "name": {"model": "tiny", "task": "scitail", "method": method},
        "method_label": method.upper(),
        "final": {
            "task/loss": 1.0,
            "winogrande/exact_match": 0.25,
            INDEX: found.value,
            f"{INDEX}_se": found.se,
            **{m: float(np.mean(p.after)) for m, p in zip(measures, probes, strict=False)},
        },
        "data": {"source": "sample", "retention": {"chances": measures, "left_out": {}}}
        | {f"probe/{part}": {"sha256": part} for part, _ in names},
        "config": {"method": {}, "train": {"lr": 1e-3}, "evaluation": {"half": half} if half else {}}
        | {"probe": {part: {"items": len(p.after)} for (part, _), p in zip(names, probes, strict=False)}},
    }
    (folder / "result.json").write_text(json.dumps(recorded(record).to_dict()), "utf-8")
    return f"{method}-{method}1234"


def place(root: Path, method: str, seed: int = 0) -> Path:
    return root / "runs" / "tiny" / "scitail" / f"{method}-{method}1234" / f"seed{seed}"


def test_compare_tests_the_index_item_by_item(tmp_path: Path) -> None:
    worse, better = three(0), [Accuracies(p.chance, p.before, p.before) for p in three(0)]
    names = [write_run(place(tmp_path, "a"), worse), write_run(place(tmp_path, "b"), better)]
    first, second = compare(names, tmp_path).rows[INDEX]
    assert isinstance(first, Cell)
    assert isinstance(second, Cell)
    wanted = retention_index(worse)
    assert first.interval.value == pytest.approx(wanted.value)
    assert first.interval.low == pytest.approx(wanted.value - 1.96 * wanted.se, abs=0.01)
    assert first.interval.high == pytest.approx(wanted.value + 1.96 * wanted.se, abs=0.01)
    assert second.paired is not None
    assert second.paired.difference == pytest.approx(1 - wanted.value)
    assert second.paired.p < 0.001


def test_over_seeds_the_index_has_an_interval_over_seeds_and_items(tmp_path: Path) -> None:
    base = three(0)
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(3):
        noisy = [
            Accuracies(p.chance, p.before, [v if rng.random() < 0.9 else 1 - v for v in p.after])
            for p in base
        ]
        write_run(place(tmp_path, "a", seed), noisy)
        runs.append(read_run(place(tmp_path, "a", seed)))
    found = over_seeds(runs, INDEX)
    assert found.value == pytest.approx(np.mean([run.final[INDEX] for run in runs]))
    largest = max(run.final[f"{INDEX}_se"] for run in runs)
    assert found.high - found.value > largest


def test_an_index_over_other_items_or_probes_is_not_compared(tmp_path: Path) -> None:
    names = [
        write_run(place(tmp_path, "a"), three(0)),
        write_run(place(tmp_path, "b"), three(0), half="holdout"),
        write_run(place(tmp_path, "c"), three(0)[:2]),
    ]
    _, held_out, fewer = compare(names, tmp_path).rows[INDEX]
    for cell in (held_out, fewer):
        assert isinstance(cell, Cell)
        assert cell.paired is None
        assert "other items" in cell.note


def test_ls_and_show_print_the_index(tmp_path: Path) -> None:
    write_run(place(tmp_path, "a"), three(0))
    found = retention_index(three(0))
    listed = CliRunner().invoke(app, ["ls", "--results", str(tmp_path)], env={"COLUMNS": "120"})
    assert "kept" in listed.output
    assert f"{found.value:.3f}" in listed.output
    asked = CliRunner().invoke(
        app, ["ls", "--results", str(tmp_path), "--metric", INDEX], env={"COLUMNS": "120"}
    )
    assert f"{found.value:.3f}" in asked.output


# --------------------------------------------------------------------- at matched score and distance

levels = st.lists(st.floats(-10, 10), min_size=1, max_size=8)


@given(levels, st.data())
def test_what_is_kept_on_reaching_a_target_lies_on_the_line_to_the_first_place_there(
    reached: list[float], data: Any
) -> None:
    kept = data.draw(st.lists(st.floats(0, 1), min_size=len(reached), max_size=len(reached)))
    target = data.draw(st.floats(-12, 12))
    found = kept_on_reaching(reached, kept, target)
    if max(reached) < target:
        assert found is None
        return
    assert found is not None
    place = int(np.argmax(np.array(reached) >= target))
    if place == 0:
        assert found == kept[0]
        return
    low, high = sorted(kept[place - 1 : place + 1])
    assert low - 1e-9 <= found <= high + 1e-9
    line = np.interp(target, reached[place - 1 : place + 1], kept[place - 1 : place + 1])
    assert found == pytest.approx(line, abs=1e-9)
    # What comes after the first place does not matter.
    assert kept_on_reaching(reached[: place + 1], kept[: place + 1], target) == found


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=8, unique=True), st.floats(0, 1))
def test_of_what_only_falls_less_is_kept_at_a_higher_target(steps: list[int], share: float) -> None:
    reached = [float(step) for step in sorted(steps)]
    kept = [1 - level / 1000 for level in reached]  # on one line
    target = reached[0] + share * (reached[-1] - reached[0])
    assert kept_on_reaching(reached, kept, target) == pytest.approx(1 - target / 1000)


@given(levels)
def test_a_target_met_exactly_is_read_at_its_place(reached: list[float]) -> None:
    kept = [float(i) for i in range(len(reached))]
    top = max(reached)
    assert kept_on_reaching(reached, kept, top) == pytest.approx(reached.index(top))


def run_with(evaluations: list[dict[str, Any]], score: str = "task/exact_match") -> RunResult:
    run = RunResult(Path(), recorded({"final": {score: 1.0}, "steps": 10}))
    run.__dict__["evaluations"] = evaluations
    return run


def test_a_run_is_read_at_a_task_score_and_at_a_distance() -> None:
    scores, kept, moved = (0.0, 0.6, 0.5, 0.8), (0.9, 0.7, 0.4, 0.1), (0.0, 0.01, 0.02, 0.04)
    lines = [
        {"step": 5 * i, "task/exact_match": s, INDEX: k, "update/distance": d}
        for i, (s, k, d) in enumerate(zip(scores, kept, moved, strict=True))
    ]
    run = run_with(lines)
    assert kept_at_score(run, 0.3, INDEX) == pytest.approx(0.8)
    assert kept_at_score(run, 0.6, INDEX) == pytest.approx(0.7)
    assert kept_at_score(run, 0.7, INDEX) == pytest.approx(0.2)
    assert kept_at_score(run, 0.9, INDEX) is None
    assert kept_at_distance(run, 0.03, INDEX) == pytest.approx(0.25)
    assert kept_at_distance(run, 0.05, INDEX) is None
    assert kept_at_distance(run_with([{"step": 0, INDEX: 1.0}]), 0.01, INDEX) is None


def test_evaluations_without_the_retention_are_passed_over() -> None:
    lines = [
        {"step": 0, "task/exact_match": 0.0, INDEX: 1.0},
        {"step": 5, "task/exact_match": 0.9},
        {"step": 10, "task/exact_match": 0.8, INDEX: 0.2},
    ]
    assert kept_at_score(run_with(lines), 0.4, INDEX) == pytest.approx(0.6)


def test_a_loss_is_reached_from_above() -> None:
    lines = [{"step": s, "task/loss": loss, INDEX: k} for s, loss, k in ((0, 4.0, 1.0), (5, 2.0, 0.5))]
    assert kept_at_score(run_with(lines, "task/loss"), 3.0, INDEX) == pytest.approx(0.75)
    assert kept_at_score(run_with(lines, "task/loss"), 1.0, INDEX) is None
