"""What is read off weights and runs: norms and ranks of updates, and the layers chosen by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_LAYERS, TINY_RUN, RunFactory, language_loss, perturb, random_ids, recorded, tiny_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.layers import choose_layers, layer_signal, pilot_config, signal_to_noise
from gdo_cli.lm.device import hold_weights
from gdo_cli.methods.grow import GFreeze
from gdo_cli.methods.sft import SFT
from gdo_cli.models.tiny import TinyModel
from gdo_cli.runs.find import find_run
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.ranking import layer_updates, ranking
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError
from gdo_cli.training.updates import UpdateTracker, matrix_ranks

# -------------------------------------------------------------------------------------------- ranks


def ranks_by_svd(matrix: Tensor) -> dict[str, float]:
    """The three ranks from numpy's singular values, written as their definitions."""
    sigma = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    share = sigma[sigma > 0] / sigma.sum()
    return {
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "stable_rank": float((sigma**2).sum() / sigma[0] ** 2),
        "participation_ratio": float((sigma**2).sum() ** 2 / (sigma**4).sum()),
    }


def random_matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (16, 16), (24, 8), (8, 24)])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_ranks_equal_those_of_the_singular_values(shape: tuple[int, int], scale: float) -> None:
    matrix = scale * random_matrix(*shape)
    assert matrix_ranks(matrix) == pytest.approx(ranks_by_svd(matrix), rel=1e-9)


def test_a_spectrum_over_several_orders_of_magnitude_is_resolved() -> None:
    left, _ = torch.linalg.qr(random_matrix(16, 16).double())
    right, _ = torch.linalg.qr(random_matrix(16, 16, seed=1).double())
    matrix = left @ torch.diag(torch.logspace(0, -5, 16, dtype=torch.float64)) @ right
    assert matrix_ranks(matrix) == pytest.approx(ranks_by_svd(matrix), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_product_of_thin_matrices_has_at_most_their_rank(rank: int) -> None:
    found = matrix_ranks(random_matrix(20, rank) @ random_matrix(rank, 12, seed=1))
    # Singular values of the Gram matrix are known to σ₁·1e-8: the nine or more zeros add a little.
    assert all(1 - 1e-6 <= value <= rank * (1 + 1e-4) for value in found.values())


@pytest.mark.parametrize("n", [1, 2, 17])
def test_the_identity_has_full_rank(n: int) -> None:
    assert matrix_ranks(3 * torch.eye(n)) == pytest.approx(
        {"effective_rank": n, "stable_rank": n, "participation_ratio": n}
    )


def test_what_has_not_moved_has_rank_zero() -> None:
    assert set(matrix_ranks(torch.zeros(4, 6)).values()) == {0.0}


# ------------------------------------------------------------------------------------------ tracking


def tracked(model: nn.Module, with_rank: bool = True) -> tuple[UpdateTracker, dict[str, Tensor]]:
    """A tracker, and the matrices that it follows as they were."""
    tracker = UpdateTracker(model, with_rank)
    return tracker, {name: p.detach().clone() for name, p in tracker.matrices.items()}


def test_norms_are_those_of_the_difference_since_the_start() -> None:
    model = SFT().prepare(tiny_model("gemma3"), None)
    tracker, before = tracked(model, with_rank=False)
    for seed in (1, 2):  # moved twice: the start counts, not the last look
        perturb(model, 0.01, seed=seed)
        rows = tracker.norms()
    assert len(rows) == len(before) == 7 * N_LAYERS  # four of attention, three of the MLP
    for row, (name, start) in zip(rows, before.items(), strict=True):
        moved = np.linalg.norm((model.get_parameter(name).detach() - start).double().numpy())
        assert f".layers.{row['layer']}." in name
        assert row["module"] in name
        assert row["norm"] == pytest.approx(moved, rel=1e-5)
        assert row["relative"] == pytest.approx(moved / np.linalg.norm(start.double().numpy()), rel=1e-5)


def test_what_does_not_move_or_starts_at_zero_has_a_norm_too() -> None:
    model = SFT().prepare(tiny_model("llama"), None)
    still, moved = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("up", "down"))
    with torch.no_grad():
        model.get_parameter(moved).zero_()
    tracker, _ = tracked(model, with_rank=False)
    with torch.no_grad():
        model.get_parameter(moved).fill_(1.0)
    rows = dict(zip(tracker.matrices, tracker.norms(), strict=True))
    assert (rows[still]["norm"], rows[still]["relative"]) == (0.0, 0.0)
    assert rows[moved]["norm"] == pytest.approx((32 * 64) ** 0.5)
    assert rows[moved]["relative"] is None


@pytest.mark.parametrize("family", ["gemma3", "phi", "gemma3_multimodal"])
def test_ranks_are_those_of_the_change_since_the_last_look(family: str) -> None:
    model = GFreeze().prepare(tiny_model(family), None)
    tracker, before = tracked(model)
    for seed in (1, 2):
        perturb(model, 0.01, only=".grow.", seed=seed)
        now = {name: p.detach().clone() for name, p in tracker.matrices.items()}
        rows = [row for row in tracker.ranks() if row["of"] == "weights"]
        columns = [n for n in before if any(kind in n for kind in ("gate_proj", "up_proj", "fc1"))]
        assert len(rows) == len(columns) >= N_LAYERS
        for row, name in zip(rows, columns, strict=True):
            expected = ranks_by_svd(now[name] - before[name])
            assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6)
        before = now
    assert {row["effective_rank"] for row in tracker.ranks()} == {0.0}


def test_beside_them_stand_the_ranks_of_the_summed_gradients() -> None:
    """Over two steps of two batches each, against the gradients of a twin; clipping does not touch them."""
    model, other = (SFT().prepare(tiny_model("gemma3"), None) for _ in range(2))
    tracker, before = tracked(model)
    for look in range(2):
        sums = {name: torch.zeros_like(start) for name, start in before.items()}
        for step in range(2):
            for batch in range(2):
                ids = random_ids(2, 8, seed=4 * look + 2 * step + batch)
                for one in (model, other):
                    language_loss(one, ids).backward()
            tracker.add_gradients()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            for name in sums:
                sums[name] += other.get_parameter(name).grad
            for one in (model, other):
                one.zero_grad()
        rows = [row for row in tracker.ranks() if row["of"] == "gradients"]
        columns = [name for name in before if "gate_proj" in name or "up_proj" in name]
        assert [row["module"] in name for row, name in zip(rows, columns, strict=True)] == [
            True
        ] * 2 * N_LAYERS
        for row, name in zip(rows, columns, strict=True):
            expected = ranks_by_svd(sums[name])
            assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_ranks_are_not_computed_unless_asked_for() -> None:
    tracker, _ = tracked(SFT().prepare(tiny_model("llama"), None), with_rank=False)
    assert tracker.ranks() == []


@pytest.mark.parametrize("method", [SFT(), GFreeze()], ids=lambda m: m.label)
def test_updates_smaller_than_bf16_can_hold_are_seen_in_a_bf16_run(method: Any) -> None:
    """A step of 2⁻¹² of a weight is lost in bf16 (8 bits): what trains must be held in fp32."""
    model = method.prepare(tiny_model("gemma3").bfloat16(), None)
    hold_weights(model, torch.bfloat16)
    tracker, before = tracked(model)
    assert {p.dtype for p in tracker.matrices.values()} == {torch.float32}
    with torch.no_grad():
        for parameter in tracker.matrices.values():
            parameter.mul_(1 + 2**-12)
    for row, start in zip(tracker.norms(), before.values(), strict=True):
        assert row["relative"] == pytest.approx(2**-12, rel=1e-4)
        assert float((start.bfloat16() * (1 + 2**-12)).sub(start.bfloat16()).norm()) == 0.0
    assert all(row["effective_rank"] > 1 for row in tracker.ranks() if row["of"] == "weights")


def test_a_run_with_ranks_holds_them_for_every_layer_and_stage(tmp_path: Path) -> None:
    """Gate and up apart, and no run without them stands in for it."""
    words = [*TINY_RUN, f"results_dir={tmp_path}", "method=sft"]
    config = load_run([*words, "evaluation.ranks=true"])
    assert config.id != load_run(words).id == load_run([*words, "evaluation.ranks=false"]).id
    rows = [line for line in experiment.run(config).metrics if line["kind"] == "rank"]
    found = [(row["step"], row["of"], row["layer"], row["module"]) for row in rows]
    modules = ("gate_proj", "up_proj")
    assert sorted(found) == sorted(product((2, 4), ("weights", "gradients"), range(4), modules))
    assert all(1 <= row["stable_rank"] <= row["participation_ratio"] * (1 + 1e-9) for row in rows)
    assert all(row["participation_ratio"] <= row["effective_rank"] <= row["full_rank"] for row in rows)


# ----------------------------------------------------------------------------------- signal and noise


def spectrum_ratio(weight: Tensor) -> float:
    """Spectrum's formula from numpy's singular values: Hartford et al., 2024, and their program."""
    matrix = weight.detach().double().numpy()
    sigma = np.linalg.svd(matrix, compute_uv=False)
    low, high = np.percentile(sigma, [25, 75])
    beta = min(matrix.shape) / max(matrix.shape)
    edge = (high - low) / 1.349 * np.sqrt((1 + np.sqrt(beta)) ** 2)
    return float(sigma[sigma > edge].sum() / sigma[sigma <= edge].sum() / sigma.max())


def with_spectrum(*sigma: float) -> Tensor:
    """A square matrix of these singular values."""
    n = len(sigma)
    left, right = (torch.linalg.qr(random_matrix(n, n, seed=seed).double())[0] for seed in (0, 1))
    matrix: Tensor = left @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ right
    return matrix


@pytest.mark.parametrize("shape", [(32, 32), (32, 64), (64, 32), (40, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signal_to_noise_is_spectrums_ratio(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = random_matrix(*shape).to(dtype)
    assert signal_to_noise(matrix) == pytest.approx(spectrum_ratio(matrix), rel=1e-9)


def test_a_matrix_of_twice_the_size_has_half_the_ratio() -> None:
    """Signal / noise does not hang on the scale; dividing by the largest singular value does."""
    matrix = random_matrix(24, 32)
    assert signal_to_noise(2 * matrix) == pytest.approx(signal_to_noise(matrix) / 2)
    assert signal_to_noise(matrix.T) == pytest.approx(signal_to_noise(matrix))


def test_a_direction_planted_in_noise_is_the_signal() -> None:
    noise = [0.01] * 8 + [1.0] * 8  # quartiles that put the edge at 2 · 0.99 / 1.349 = 1.47
    assert signal_to_noise(with_spectrum(*noise)) == 0.0
    assert signal_to_noise(with_spectrum(*noise, 1.4)) == 0.0
    for planted in (1.5, 3.0, 100.0):
        assert signal_to_noise(with_spectrum(*noise, planted)) == pytest.approx(1 / sum(noise))
    both = signal_to_noise(with_spectrum(*noise, 3.0, 2.0))
    assert both == pytest.approx((3 + 2) / sum(noise) / 3)


def test_without_noise_the_ratio_is_infinite_and_of_nothing_it_is_zero() -> None:
    assert signal_to_noise(torch.eye(8)) == float("inf")
    assert signal_to_noise(torch.zeros(4, 8)) == 0.0


def test_a_layers_signal_is_the_mean_over_the_matrices_of_its_mlp(any_model: PreTrainedModel) -> None:
    values = layer_signal(any_model)
    assert len(values) == N_LAYERS
    for layer, value in enumerate(values):
        mlp = [
            spectrum_ratio(parameter)
            for name, parameter in any_model.named_parameters()
            if f".layers.{layer}." in name and parameter.ndim == 2 and "vision" not in name
            if any(part in name for part in ("gate_proj", "up_proj", "down_proj", "fc1", "fc2"))
        ]
        assert len(mlp) in (2, 3)
        assert value == pytest.approx(np.mean(mlp), rel=1e-6)


def test_the_layers_with_most_signal_are_chosen_without_a_pilot(tiny_run: RunFactory) -> None:
    config = tiny_run("layers=2", "layer_rule=snr")
    model = config.model.load().model
    with torch.no_grad():
        for layer, size in enumerate((1.0, 0.25, 2.0, 0.5)):  # the smaller, the larger the ratio
            for name in ("gate", "up", "down"):
                model.get_parameter(f"model.layers.{layer}.mlp.{name}_proj.weight").mul_(size)
    choice = choose_layers(config, model, no_pilot)
    assert choice.indices == choice.chosen == [1, 3]
    assert choice.ranking == [1, 3, 0, 2]
    assert choice.snr == pytest.approx(layer_signal(model), rel=1e-5)
    assert (choice.asked, choice.rule) == (2, "snr")
    assert choice.pilot is None


# ----------------------------------------------------------------------------------- layers, by rule

N_TINY = 4  # layers of model=tiny


def updates(*norms: float) -> list[dict[str, Any]]:
    """Two matrices a layer: the second with a tenth of the first's norm and ten times its share."""
    return [
        {"layer": layer, "module": module, "norm": norm * part, "relative": relative}
        for layer, norm in enumerate(norms)
        for module, part, relative in (("up_proj", 1.0, 1 / norm), ("q_proj", 0.1, 10 / norm))
    ]


def decoder(n_layers: int) -> nn.Module:
    """A model of which only the number of layers is of interest."""
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Identity() for _ in range(n_layers))
    return model


def no_pilot(_: RunConfig) -> RunResult:
    raise AssertionError("a pilot was run")


def stand_in(rows: list[dict[str, Any]]) -> Callable[[RunConfig], RunResult]:
    """A pilot that ended with the given updates."""

    def run(config: RunConfig) -> RunResult:
        record = {"id": config.id, "seed": config.seed, "name": config.name}
        return RunResult(
            Path("runs/pilot"),
            recorded(record | {"updates": rows, "wall_seconds": 12.5}),
        )

    return run


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("pilot", [1, 3]),
        ("worst", [0, 2]),
        ("relative", [0, 2]),
        ("first", [0, 1]),
        ("last", [2, 3]),
        ("spread", [0, 2]),
    ],
)
def test_a_number_of_layers_is_chosen_by_the_rule(
    tiny_run: RunFactory, rule: str, expected: list[int]
) -> None:
    run = stand_in(updates(1, 4, 2, 3)) if rule in ("pilot", "worst", "relative") else no_pilot
    choice = choose_layers(tiny_run("layers=2", f"layer_rule={rule}"), decoder(N_TINY), run)
    assert choice.indices == choice.chosen == expected
    assert (choice.asked, choice.rule) == (2, rule)


@pytest.mark.parametrize("rule", ["first", "last", "spread", "random"])
@pytest.mark.parametrize("n_layers", [4, 18, 26])
def test_every_rule_chooses_as_many_layers_as_asked_for(
    tiny_run: RunFactory, rule: str, n_layers: int
) -> None:
    config = tiny_run("layers=1", f"layer_rule={rule}")
    for n in range(1, n_layers):
        chosen = choose_layers(_asking(config, n), decoder(n_layers), no_pilot).indices
        assert chosen is not None
        assert len(set(chosen)) == n
        assert set(chosen) <= set(range(n_layers))
        assert chosen == sorted(chosen)


def _asking(config: RunConfig, n: int) -> RunConfig:
    return replace(config, layers=n, method=replace(config.method, layers=n))  # type: ignore[call-arg]


def test_spread_layers_lie_apart_evenly(tiny_run: RunFactory) -> None:
    config = tiny_run("layers=6", "layer_rule=spread")
    assert choose_layers(config, decoder(18), no_pilot).indices == [1, 4, 7, 10, 13, 16]


def test_random_layers_hang_on_the_seed_alone(tiny_run: RunFactory) -> None:
    def chosen(seed: int) -> list[int] | None:
        config = tiny_run("layers=5", "layer_rule=random", f"seed={seed}")
        torch.manual_seed(7 * seed)
        return choose_layers(config, decoder(18), no_pilot).indices

    assert chosen(0) == chosen(0)
    assert len({str(chosen(seed)) for seed in range(4)}) > 1


def test_the_paper_ranks_by_the_norm_over_all_matrices_of_a_layer() -> None:
    rows = [
        {"layer": 0, "module": "up_proj", "norm": 3.0, "relative": 0.1},
        {"layer": 0, "module": "q_proj", "norm": 4.0, "relative": 0.1},  # together 5
        {"layer": 1, "module": "up_proj", "norm": 4.9, "relative": 0.3},
        {"layer": 1, "module": "q_proj", "norm": 0.1, "relative": 0.1},
    ]
    pilot = RunResult(Path("runs/pilot"), recorded({"updates": rows}))
    assert ranking(pilot) == [0, 1]
    assert ranking(pilot, "relative") == [1, 0]


def test_how_far_a_layer_moved_is_summed_over_all_of_it_its_mlp_and_its_attention() -> None:
    rows = [
        {"layer": 1, "module": "gate_proj", "norm": 2.0, "relative": 0.5},
        {"layer": 1, "module": "down_proj", "norm": 3.0, "relative": None},  # it started at zero
        {"layer": 1, "module": "o_proj", "norm": 6.0, "relative": 0.1},
        {"layer": 0, "module": "fc2", "norm": 1.0, "relative": None},
        {"layer": 0, "module": "other", "norm": 2.0, "relative": None},
    ]
    found = layer_updates(RunResult(Path("runs/any"), recorded({"updates": rows})))
    assert list(found) == [0, 1]
    assert found[0] == pytest.approx({"norm": 5**0.5, "relative": 0.0, "mlp": 1.0, "attention": 0.0})
    assert found[1] == pytest.approx({"norm": 7.0, "relative": 0.3, "mlp": 13**0.5, "attention": 6.0})
    assert layer_updates(RunResult(Path("runs/any"), recorded({"updates": []}))) == {}


def test_layers_that_moved_equally_come_in_their_order() -> None:
    assert ranking(RunResult(Path("runs/pilot"), recorded({"updates": updates(2, 2, 2)}))) == [0, 1, 2]


def test_a_pilot_without_norms_is_named_with_the_mend(tiny_run: RunFactory) -> None:
    with pytest.raises(UserError, match=r"scitail/sft-.* holds no update norms; run it again"):
        choose_layers(tiny_run("layers=2"), decoder(N_TINY), stand_in([]))


@pytest.mark.parametrize("n", [4, 5, 99])
def test_a_number_at_or_above_the_depth_means_all_with_a_notice(
    tiny_run: RunFactory, capsys: pytest.CaptureFixture[str], n: int
) -> None:
    choice = choose_layers(tiny_run(f"layers={n}"), decoder(N_TINY), no_pilot)
    assert choice.indices is None
    assert (choice.asked, choice.chosen) == (n, "all")
    assert f"layers={n}: the model has 4 layers, so all of them" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "layers"), [("all", None), ("[3,0]", [0, 3])])
def test_all_layers_and_a_list_need_no_rule(
    tiny_run: RunFactory, asked: str, layers: list[int] | None
) -> None:
    choice = choose_layers(tiny_run(f"layers={asked}"), decoder(N_TINY), no_pilot)
    assert choice.indices == layers
    assert choice.chosen == (layers or "all")


@pytest.mark.parametrize("asked", ["[4]", "[0,9]"])
def test_an_index_out_of_range_is_refused_before_anything_is_trained(
    tiny_run: RunFactory, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def train(*_: Any) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr(experiment, "train", train)
    with pytest.raises(UserError, match="the model has layers 0 to 3"):
        experiment.run(tiny_run(f"layers={asked}"))


# ---------------------------------------------------------------------------------- the pilot's run

SHORT = ("train.steps=1", "evaluation.every=1", "train.lr=1e-4")


@pytest.fixture(scope="module")
def piloted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """Where a run with two layers of four was made, which had to make its pilot first; and the run."""
    results = tmp_path_factory.mktemp("results")
    return results, experiment.run(load_run([*TINY_RUN, *SHORT, f"results_dir={results}", "layers=2"]))


def sft(results: Path) -> RunConfig:
    """The plain SFT run that serves as the pilot: at the model's own rate."""
    own = [*TINY_RUN, *SHORT[:2], f"results_dir={results}", "method=sft"]
    return load_run(own)


def test_without_a_finished_pilot_it_is_run_first(piloted: tuple[Path, RunResult]) -> None:
    results, grown = piloted
    pilot = RunFolder(sft(results).path).load()
    assert pilot is not None
    record = grown.record.layers
    assert record.pilot == pilot.title
    assert record.pilot_seconds == pilot.record.wall_seconds > 0
    assert pilot.record.config["train"]["lr"] == 1e-3  # not the 1e-4 of the run


def test_the_layers_are_those_whose_weights_moved_most(piloted: tuple[Path, RunResult]) -> None:
    """Against the kept weights of the pilot and those of the untouched model."""
    results, grown = piloted
    config = sft(results)
    pilot = RunFolder(config.path).load()
    assert pilot is not None
    assert pilot.weights is not None
    tuned = load_file(pilot.weights / "parameters.safetensors")
    moved = np.zeros(N_TINY)
    for name, start in config.model.load().model.named_parameters():
        if start.ndim == 2 and ".layers." in name:
            layer = int(name.split(".layers.")[1].split(".")[0])
            moved[layer] += np.linalg.norm((tuned[name] - start.detach().float()).double().numpy()) ** 2
    order = np.argsort(-moved).tolist()
    record = grown.record.layers
    assert record.ranking == order
    assert record.chosen == sorted(order[:2])
    assert {row["layer"] for row in grown.record.updates} == set(order[:2])


@pytest.mark.parametrize(
    "words",
    [
        ["train.optimizer=adafactor"],
        ["train.lr_scale={gate_proj: 0.5}"],
        ["train.optimizer=adafactor", "train.lr_scale={gate_proj: 0.5}", "train.warmup_steps=0"],
    ],
)
def test_the_pilot_is_the_same_whatever_optimizer_or_factors_a_run_has(
    tiny_run: RunFactory, words: list[str]
) -> None:
    pilot = pilot_config(tiny_run("layers=2", *words))
    assert pilot.id == pilot_config(tiny_run("layers=2")).id
    assert load_run(pilot.overrides).id == pilot.id
    assert load_run(pilot.overrides).train == pilot.train


def test_a_run_is_shown_with_its_layers_the_furthest_first(piloted: tuple[Path, RunResult]) -> None:
    results, grown = piloted
    pilot = grown.record.layers.pilot
    assert pilot is not None
    for reference, n in ((pilot, N_TINY), (grown.title, 2)):
        shown = CliRunner().invoke(app, ["show", reference, "--results", str(results)])
        assert shown.exit_code == 0, shown.output
        _, _, table = shown.stdout.partition("How far the layers moved")
        words = [line.split() for line in table.splitlines()]
        header = words.index(["rank", "layer", "norm", "relative", "mlp", "attention"])
        rows = [[float(word) for word in line] for line in words[header + 1 :]]
        assert [row[0] for row in rows] == list(range(1, n + 1))
        assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
        updates = find_run(reference, results).record.updates
        for _, layer, norm, _, mlp, attention in rows:
            squares = {True: 0.0, False: 0.0}
            for row in updates:
                if row["layer"] == layer:
                    squares[row["module"] in ("gate_proj", "up_proj", "down_proj")] += row["norm"] ** 2
            expected = [sum(squares.values()) ** 0.5, squares[True] ** 0.5, squares[False] ** 0.5]
            assert [norm, mlp, attention] == pytest.approx(expected, abs=6e-5)


def test_a_run_that_trained_nothing_is_shown_without_a_ranking(tmp_path: Path) -> None:
    run = experiment.run(load_run([*TINY_RUN, f"results_dir={tmp_path}", "method=frozen"]))
    shown = CliRunner().invoke(app, ["show", run.title, "--results", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "How far" not in shown.stdout


def test_a_finished_pilot_is_not_run_again(
    piloted: tuple[Path, RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, grown = piloted

    def load(_: TinyModel) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(TinyModel, "load", load)
    order = grown.record.layers.ranking
    assert order is not None
    for rule, chosen in (("pilot", order[:3]), ("worst", order[-3:])):
        words = [
            *TINY_RUN,
            *SHORT,
            f"results_dir={results}",
            "layers=3",
            f"layer_rule={rule}",
            "method=g_train",
        ]
        choice = choose_layers(load_run(words), decoder(N_TINY), experiment.run)
        assert choice.indices == sorted(chosen)
        assert choice.pilot_seconds == grown.record.layers.pilot_seconds


def test_the_pilot_is_the_plain_sft_run_and_can_be_asked_for_by_its_overrides(tmp_path: Path) -> None:
    """So that a pilot made for one run serves all others, and `gdo train` finds it done."""
    words = [*TINY_RUN, f"results_dir={tmp_path}", "layers=2", "layer_rule=worst", "train.lr=1e-4"]
    asked: list[RunConfig] = []

    def run(config: RunConfig) -> RunResult:
        asked.append(config)
        return stand_in(updates(1, 2, 3, 4))(config)

    choose_layers(load_run(words), decoder(N_TINY), run)
    (pilot,) = asked
    plain = load_run([*TINY_RUN, f"results_dir={tmp_path}", "method=sft"])
    assert pilot.path == plain.path
    assert load_run(pilot.overrides).id == plain.id
