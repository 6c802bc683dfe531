"""Function vectors: heads found in grown models too, effects against brute force, vectors by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BOS, TINY_RUN, VOCABULARY, perturb, random_ids, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands.analyze import function_vectors, fv
from gdo_cli.commands.analyze.function_vectors import (
    Heads,
    Measured,
    in_residual_stream,
    indirect_effects,
    measure,
)
from gdo_cli.commands.analyze.fv import FunctionVectors, chance, compare, cosine, function_vector, top_heads
from gdo_cli.commands.analyze.prompts import Sample, TaskPrompts
from gdo_cli.commands.analyze.skeleton import analyse
from gdo_cli.commands.plot import plot_all
from gdo_cli.config.build import load_run
from gdo_cli.config.grid import load_grid
from gdo_cli.evaluation import base_cache as basecache
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.experiment.run import run
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder
from gdo_cli.lm.tokens import Encoded, Encoder
from gdo_cli.methods.base import Method
from gdo_cli.methods.blocks import ZeroBlock
from gdo_cli.methods.grow import AttentionGrow, GFreeze
from gdo_cli.methods.sft import SFT
from gdo_cli.models.loading import Loaded
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError

# Of every family whose attention gdo can grow; Gemma 3 4B is the last one.
FAMILIES = ["gemma3", "llama", "opt", "gemma3_multimodal"]
METHODS: dict[str, Method | None] = {
    "untouched": None,
    "sft": SFT(),
    "g_freeze": GFreeze(),
    "heads": AttentionGrow(),
    "heads, one layer, k=3": AttentionGrow(layers=[1], k=3),
    "head_dim": AttentionGrow(grow="head_dim"),
    "head_dim and MLP": AttentionGrow(grow="head_dim", with_mlp=True),
    "blocks": ZeroBlock(layers=[0, 2]),
}
N_HEADS, HEAD_DIM, WIDTH = 4, 8, 32


def changed_by(method: Method | None, family: str = "gemma3") -> tuple[AnswerLM, Heads]:
    """A model prepared by the method and moved from where it started; the base's heads in it."""
    base = tiny_model(family)
    heads = Heads(base)
    model = base
    if method is not None:
        layers = getattr(method, "layers", None)
        model = method.prepare(base, layers if isinstance(layers, list) else None)
        perturb(model, 0.05, seed=3)
    return answering(model), heads


def answering(model: PreTrainedModel) -> AnswerLM:
    lm = AnswerLM(model.requires_grad_(False).float(), torch.float32)
    lm.eval()
    return lm


def prompts(n: int, seed: int = 0) -> list[Encoded]:
    """Longer than the sliding window of the tiny Gemma (6)."""
    return [
        Encoded([BOS, *random_ids(11 + i % 3, seed=100 * seed + i).tolist()], [(9 + 7 * i) % VOCABULARY])
        for i in range(n)
    ]


def by_hand(head: int, k: int, interleaved: bool) -> list[int]:
    """Features of a head, written out from how each kind of growth lays them."""
    if interleaved:  # the head and its copies are one head, k times as wide
        return list(range(head * k * HEAD_DIM, (head + 1) * k * HEAD_DIM))
    return [copy * N_HEADS * HEAD_DIM + head * HEAD_DIM + i for copy in range(k) for i in range(HEAD_DIM)]


@torch.no_grad()
def brute_force(
    lm: AnswerLM, heads: Heads, prompt: Encoded, means: list[Tensor], method: str
) -> np.ndarray[Any, Any]:
    """Head by head: the whole prompt through the model's own forward, the head replaced at its last token."""
    model: Any = lm.model
    ids = torch.tensor([prompt.context])

    def right_answer() -> float:
        return float(model(input_ids=ids).logits[0, -1].double().softmax(-1)[prompt.continuation[0]])

    clean, found = right_answer(), []
    for layer, mean in enumerate(means):
        width = mean.shape[0]
        for head in range(N_HEADS):
            where = by_hand(head, width // WIDTH, "head_dim" in method)

            def patch(
                _: nn.Module, args: tuple[Tensor, ...], where: list[int] = where, mean: Tensor = mean
            ) -> Any:
                x = args[0].clone()
                for i in where:
                    x[0, -1, i] = mean[i]
                return (x,)

            handle = heads.projection(layer).register_forward_pre_hook(patch)
            found.append(right_answer() - clean)
            handle.remove()
    return np.array(found)


# ------------------------------------------------------------------------------------------- effects


def assert_effects_are_those_of_brute_force(lm: AnswerLM, heads: Heads, method: str) -> None:
    prompt = prompts(1)[0]
    with heads.captured() as seen, torch.no_grad():
        lm.hidden(torch.tensor([prompts(1, seed=5)[0].context]), torch.tensor([0]))
    means = [x[0] for x in seen]
    with torch.no_grad():
        _, effects = indirect_effects(lm, heads, prompt, means)
    expected = brute_force(lm, heads, prompt, means, method)
    assert len(expected) == len(heads) == effects.shape[0]
    assert np.abs(expected).min() > 1e-8  # every head does something, so none can be missed
    assert effects == pytest.approx(expected, rel=1e-3, abs=2e-8)


@pytest.mark.few(3)
@pytest.mark.parametrize("method", METHODS)
def test_effects_are_those_of_patching_head_by_head_with_full_forwards(method: str) -> None:
    lm, heads = changed_by(METHODS[method])
    assert_effects_are_those_of_brute_force(lm, heads, method)


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_are_those_of_brute_force_in_every_family(family: str) -> None:
    lm, heads = changed_by(SFT(), family)
    assert_effects_are_those_of_brute_force(lm, heads, "sft")


@pytest.mark.parametrize("tokens", [1, 40, 100])
def test_effects_do_not_hang_on_how_many_heads_share_a_pass(
    monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    lm, heads = changed_by(SFT())
    means = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    with torch.no_grad():
        _, together = indirect_effects(lm, heads, prompts(1)[0], means)
        monkeypatch.setattr(function_vectors, "PATCH_TOKENS", tokens)
        _, apart = indirect_effects(lm, heads, prompts(1)[0], means)
    assert apart == pytest.approx(together, abs=1e-7)


def test_a_head_replaced_by_its_own_output_has_no_effect() -> None:
    lm, heads = changed_by(METHODS["heads"])
    prompt = prompts(1)[0]
    with heads.captured() as seen, torch.no_grad():
        lm.hidden(torch.tensor([prompt.context]), torch.tensor([0]))
    with torch.no_grad():
        _, effects = indirect_effects(lm, heads, prompt, [x[0] for x in seen])
    assert np.abs(effects).max() < 1e-7


def test_measuring_leaves_no_hook_behind_even_after_an_error() -> None:
    lm, heads = changed_by(None)
    with pytest.raises(RuntimeError, match="on the way"), heads.captured():
        raise RuntimeError("on the way")
    measure(lm, heads, Sample(prompts(2), prompts(2, seed=1)))
    assert not any(module._forward_pre_hooks for module in lm.model.modules())


# --------------------------------------------------------------------------------------- contributions


@pytest.mark.few(3)
@pytest.mark.parametrize("method", METHODS)
def test_contributions_of_all_heads_add_up_to_what_the_projection_gives(method: str) -> None:
    lm, heads = changed_by(METHODS[method])
    sample = Sample(prompts(3), prompts(1, seed=1))
    found = measure(lm, heads, sample).contributions
    assert found.shape == (3, 3 * N_HEADS, WIDTH)
    for layer in range(3):
        outputs: list[Tensor] = []
        handle = heads.projection(layer).register_forward_hook(
            lambda m, args, out, outputs=outputs: outputs.append(out[0, -1])
        )
        with torch.no_grad():
            for prompt in sample.clean:
                lm.hidden(torch.tensor([prompt.context]), torch.tensor([0]))
        handle.remove()
        own = found[:, layer * N_HEADS : (layer + 1) * N_HEADS].sum(1)
        np.testing.assert_allclose(own, torch.stack(outputs).numpy(), rtol=1e-4, atol=1e-6)


def test_a_contribution_is_the_heads_output_times_its_slice_of_the_weight() -> None:
    lm, heads = changed_by(None, "llama")  # with a bias, which is no head's
    (prompt,) = prompts(1)
    found = measure(lm, heads, Sample([prompt], prompts(1, seed=1))).contributions[0]
    for layer in range(3):
        projection: Any = heads.projection(layer)
        inputs: list[Tensor] = []
        handle = projection.register_forward_pre_hook(
            lambda m, args, inputs=inputs: inputs.append(args[0][0, -1])
        )
        with torch.no_grad():
            lm.hidden(torch.tensor([prompt.context]), torch.tensor([0]))
        handle.remove()
        for head in range(N_HEADS):
            part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            expected = projection.weight[:, part].double() @ inputs[0][part].double()
            np.testing.assert_allclose(found[layer * N_HEADS + head], expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.few(4)
@pytest.mark.parametrize("family", ["gemma3", "llama", "gemma3_multimodal"])
@pytest.mark.parametrize("method", ["g_freeze", "heads", "head_dim", "blocks"])
def test_a_model_that_has_just_been_grown_has_exactly_the_heads_of_its_base(family: str, method: str) -> None:
    sample = Sample(prompts(2), prompts(2, seed=1))
    base = tiny_model(family)
    heads = Heads(base)
    before = measure(answering(base), heads, sample)
    chosen = METHODS[method]
    assert chosen is not None
    layers = getattr(chosen, "layers", None)
    model = chosen.prepare(base, layers if isinstance(layers, list) else None)
    after = measure(answering(model), heads, sample)
    np.testing.assert_allclose(after.contributions, before.contributions, rtol=1e-3, atol=2e-6)
    np.testing.assert_allclose(after.effects, before.effects, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_of_a_layer_add_to_the_residual_stream_what_attention_adds(family: str) -> None:
    """Behind the norm that Gemma has there; against the module's own output."""
    lm, heads = changed_by(SFT(), family)
    clean = prompts(3)
    measured = measure(lm, heads, Sample(clean, prompts(1, seed=1)))
    for layer in range(3):
        block: Any = find_decoder(lm.model).layers[layer]
        last = block.post_attention_layernorm if "gemma3" in family else heads.projection(layer)
        outputs: list[Tensor] = []
        handle = last.register_forward_hook(lambda m, args, out, outputs=outputs: outputs.append(out[0, -1]))
        with torch.no_grad():
            for prompt in clean:
                lm.hidden(torch.tensor([prompt.context]), torch.tensor([0]))
        handle.remove()
        expected = torch.stack(outputs).mean(0).numpy()
        if (bias := getattr(last, "bias", None)) is not None:
            expected = expected - bias.numpy()
        chosen = range(layer * N_HEADS, (layer + 1) * N_HEADS)
        np.testing.assert_allclose(
            in_residual_stream(heads, measured, chosen), expected, rtol=1e-3, atol=1e-5
        )
    parts = [in_residual_stream(heads, measured, [i]) for i in (1, 6, 7)]
    np.testing.assert_allclose(
        in_residual_stream(heads, measured, [1, 6, 7]), sum(parts), rtol=1e-3, atol=1e-5
    )


def test_a_model_without_a_known_output_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="has no attention"):
        Heads(tiny_model("phi"))


def test_the_means_that_replace_heads_are_over_the_clean_prompts_alone() -> None:
    lm, heads = changed_by(None)
    clean, shuffled = prompts(3), prompts(1, seed=1)
    outputs = []
    for prompt in clean:
        with heads.captured() as seen, torch.no_grad():
            lm.hidden(torch.tensor([prompt.context]), torch.tensor([0]))
        outputs.append([x[0] for x in seen])
    means = [torch.stack(layer).mean(0) for layer in zip(*outputs, strict=True)]
    found = measure(lm, heads, Sample(clean, shuffled))
    expected = brute_force(lm, heads, shuffled[0], means, "untouched")
    assert found.effects[0] == pytest.approx(expected, rel=1e-3, abs=2e-8)
    ids = torch.tensor([clean[2].context])
    with torch.no_grad():
        right = lm.model(input_ids=ids).logits[0, -1].softmax(-1)[clean[2].continuation[0]]
    assert found.clean[2] == pytest.approx(float(right), rel=1e-4)


# ------------------------------------------------------------------------------------------ comparing


def random_measured(seed: int, n_heads: int = 12, n_clean: int = 6, n_shuffled: int = 5) -> Measured:
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return generator.normal(size=shape).astype(np.float32)

    return Measured(
        normal(n_clean, n_heads, 7), normal(n_shuffled, n_heads), normal(n_clean), normal(n_shuffled)
    )


def test_overlap_and_cosines_are_those_of_the_definitions() -> None:
    base, other = random_measured(0), random_measured(1)
    sets = []
    for measured in (base, other):
        effects = measured.effects.astype(np.float64).mean(0)
        sets.append(sorted(range(12), key=lambda i: -effects[i])[:4])
    assert top_heads(base.effects, 4).tolist() == sets[0]

    def vector(measured: Measured, heads: list[int]) -> Any:
        total = np.zeros(7)
        for head in heads:
            total += measured.contributions[:, head].astype(np.float64).mean(0)
        return total

    def angle(a: Any, b: Any) -> float:
        return float(sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5))

    found = {key: number["value"] for key, number in compare(base, other, 4, paired=True, seed=0).items()}
    assert found == pytest.approx(
        {
            "overlap": len(set(sets[0]) & set(sets[1])),
            "cosine_base_heads": angle(vector(base, sets[0]), vector(other, sets[0])),
            "cosine_own_heads": angle(vector(base, sets[0]), vector(other, sets[1])),
        },
        abs=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_intervals_are_those_of_a_bootstrap_over_prompts(paired: bool) -> None:
    """Against another bootstrap, with its own draws and by copying prompts instead of weighting them."""
    base, other = random_measured(2, n_clean=20, n_shuffled=30), random_measured(3, n_clean=20, n_shuffled=30)
    generator = np.random.default_rng(99)
    cosines = []
    for _ in range(2000):
        clean, shuffled = generator.integers(20, size=20), generator.integers(30, size=30)
        first = top_heads(base.effects[shuffled], 3)
        a = function_vector(base.contributions[clean], first)
        if not paired:
            clean, shuffled = generator.integers(20, size=20), generator.integers(30, size=30)
        cosines.append(cosine(a, function_vector(other.contributions[clean], first)))
    found = compare(base, other, 3, paired, seed=1)["cosine_base_heads"]
    low, high = np.quantile(cosines, [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.06)
    assert compare(base, other, 3, paired, seed=1)["cosine_base_heads"] == found


def test_a_model_compared_with_itself_has_all_heads_and_the_same_vector() -> None:
    measured = random_measured(4)
    found = compare(measured, measured, 5, paired=True, seed=0)
    assert found["overlap"] == {"value": 5, "low": 5, "high": 5}
    for name in ("cosine_base_heads", "cosine_own_heads"):
        assert list(found[name].values()) == pytest.approx([1, 1, 1], abs=1e-6)


def test_random_heads_share_as_many_as_simulation_says() -> None:
    generator = np.random.default_rng(0)
    shared = [
        len(set(generator.choice(12, 5, replace=False)) & set(generator.choice(12, 5, replace=False)))
        for _ in range(20_000)
    ]
    floor = chance(random_measured(5), 5, seed=0)
    assert floor["overlap"]["value"] == pytest.approx(np.mean(shared), abs=0.03)
    assert -1 <= floor["cosine"]["low"] < floor["cosine"]["value"] < floor["cosine"]["high"] <= 1
    assert chance(random_measured(5), 12, seed=0)["cosine"]["value"] == pytest.approx(1)  # all of them


def test_the_cosine_with_nothing_is_zero() -> None:
    assert cosine(np.zeros(3, np.float32), np.ones(3, np.float32)) == 0.0


# -------------------------------------------------------------------------------------------- prompts


@pytest.fixture(scope="module")
def task(tiny_loaded: Loaded) -> TaskPrompts:
    plain = [word for word in TINY_RUN if not word.startswith("probe")]
    config = load_run([*plain, "probe=[]", "evaluation.items=null", "evaluation.final_items=0"])
    encoder = Encoder.of(tiny_loaded.tokenizer, [])
    return TaskPrompts(read_run_data(config), encoder, config.train.max_length)


def text(task: TaskPrompts, ids: list[int]) -> str:
    return str(task.encoder.tokenizer.decode(ids, skip_special_tokens=True))


def labels(task: TaskPrompts, prompt: Encoded) -> list[str]:
    blocks = text(task, prompt.context).split("\n\n")
    return [block.rpartition("neutral):")[2].strip() for block in blocks]


def test_prompts_show_solved_examples_of_training_and_ask_of_validation(task: TaskPrompts) -> None:
    (sample,) = task.samples(1, 3, 6, 4, seed=0)
    solved = {f"{e.prompt}{e.answer}" for e in task.solved}
    questions = {e.prompt: e.answer for e in task.questions}
    assert (len(sample.clean), len(sample.shuffled)) == (6, 4)
    for prompt in sample.clean:
        *shown, question = text(task, prompt.context).split("\n\n")
        assert len(shown) == len(set(shown)) == 3
        assert set(shown) <= solved
        assert text(task, prompt.continuation) == questions[question]


def test_shuffling_keeps_the_examples_and_the_number_of_each_answer(task: TaskPrompts) -> None:
    (sample,) = task.samples(1, 6, 1, 30, seed=0)
    answers = {e.prompt: e.answer.strip() for e in task.solved}
    wrong = 0
    for prompt in sample.shuffled:
        *shown, _ = text(task, prompt.context).split("\n\n")
        given = [block.rpartition(" ")[2] for block in shown]
        right = [answers[block.rpartition(" ")[0]] for block in shown]
        assert sorted(given) == sorted(right)
        wrong += given != right
    assert wrong > 15


def test_samples_ask_different_questions_and_hang_on_the_seed_alone(task: TaskPrompts) -> None:
    def asked(seed: int) -> list[str]:
        samples = task.samples(2, 2, 10, 5, seed)
        return [text(task, q.context).split("\n\n")[-1] for s in samples for q in (*s.clean, *s.shuffled)]

    assert len(asked(0)) == len(set(asked(0))) == 30
    assert asked(0) == asked(0) != asked(1)


def test_where_questions_run_out_they_come_again_with_other_examples(task: TaskPrompts) -> None:
    n = len(task.questions)
    (sample,) = task.samples(1, 2, n, n, seed=0)
    asked = [text(task, q.context).split("\n\n")[-1] for q in sample.clean]
    assert sorted(asked) == sorted(e.prompt for e in task.questions)
    assert len({tuple(q.context) for q in (*sample.clean, *sample.shuffled)}) == 2 * n


def test_more_shots_than_examples_are_refused(task: TaskPrompts) -> None:
    with pytest.raises(UserError, match=r"--shots 999: the training split has \d+ examples"):
        task.samples(1, 999, 1, 1, seed=0)


# ----------------------------------------------------------------------------------------- whole runs

FEW = FunctionVectors(shots=2, prompts=6, effect_prompts=4, heads=3)
FEW_WORDS = ["--shots", "2", "--prompts", "6", "--effect-prompts", "4", "--heads", "3"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def trained(results: Path, *words: str) -> RunResult:
    plain = [word for word in TINY_RUN if not word.startswith("probe")]
    return run(load_run([*plain, "probe=[]", f"results_dir={results}", *words]))


@pytest.fixture(scope="module")
def tuned(results: Path) -> RunResult:
    return trained(results, "method=sft", "train.lr=1e-2")


@pytest.mark.slow
def test_an_analysis_is_kept_beside_its_run_and_not_made_twice(
    tuned: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = analyse(tuned, FEW, None)
    file = tuned.path / "analysis" / "fv.json"
    assert json.loads(file.read_text("utf-8")) == found == tuned.analysis("fv")
    assert found["n_heads"] == 16
    assert found["chance"]["overlap"]["value"] == pytest.approx(9 / 16)
    for key in ("run", "ceiling"):
        for number in found[key].values():
            assert number["low"] <= number["high"]
    assert [len(model["heads"]) for model in found["models"].values()] == [3, 3, 3]
    assert found["run"]["cosine_base_heads"]["value"] < 0.999  # it has moved

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(fv, "measure", again)
    assert analyse(tuned, FEW, None) == found
    with pytest.raises(AssertionError, match="measured again"):
        analyse(tuned, FunctionVectors(shots=2, prompts=6, effect_prompts=4, heads=2), None, force=True)


@pytest.mark.slow
def test_a_run_that_trained_nothing_is_its_base(results: Path) -> None:
    found = analyse(trained(results, "method=frozen"), FEW, None)
    assert found["run"]["overlap"] == {"value": 3, "low": 3, "high": 3}
    assert found["run"]["cosine_own_heads"]["value"] == pytest.approx(1, abs=1e-6)
    assert found["models"]["base"] == found["models"]["run"]


@pytest.mark.slow
@pytest.mark.parametrize("grow", ["heads", "head_dim"])
def test_runs_with_grown_attention_are_analysed(results: Path, grow: str) -> None:
    grown = trained(results, "method=attention_grow", f"method.grow={grow}", "train.lr=1e-6")
    found = analyse(grown, FEW, None)
    assert found["n_heads"] == 16
    assert found["run"]["cosine_base_heads"]["value"] > 0.99  # at such a rate nothing moves


@pytest.mark.slow
def test_the_base_is_measured_once_for_all_runs_on_a_task(
    tuned: RunResult, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = analyse(tuned, FEW, None, force=True)
    measured = []

    def counting(lm: AnswerLM, *rest: Any) -> Measured:
        measured.append(lm)
        return measure(lm, *rest)

    monkeypatch.setattr(fv, "measure", counting)
    other = analyse(trained(results, "method=g_freeze"), FEW, None, force=True)
    assert len(measured) == 1  # the run
    assert other["ceiling"] == first["ceiling"]
    assert other["models"]["base"] == first["models"]["base"]
    analyse(tuned, FunctionVectors(shots=2, prompts=5, effect_prompts=4, heads=3), None, force=True)
    assert len(measured) == 4  # other prompts: the base twice, and the run


def test_arrays_in_the_cache_that_cannot_be_read_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDO_CACHE_DIR", str(tmp_path))
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2]}
    code = ("commands/analyze", "lm")
    for _ in range(2):
        found = basecache.base_arrays({"k": 1}, code, lambda: arrays)
        np.testing.assert_array_equal(found["a"], arrays["a"])
    (file,) = (tmp_path / "analyses").iterdir()
    file.write_bytes(b"half of a file")
    made = []

    def make() -> basecache.Arrays:
        made.append(1)
        return arrays

    for key, file_of_code in (
        ({"k": 1}, code),
        ({"k": 2}, code),
        ({"k": 2}, ("lm",)),
        ({"k": 1}, code),
    ):
        basecache.base_arrays(key, file_of_code, make)
    assert len(made) == 3


def gdo(*words: str) -> Any:
    return CliRunner().invoke(app, ["analyze", *words], env={"COLUMNS": "90"})


def test_the_command_prints_what_it_found(tuned: RunResult, results: Path) -> None:
    shown = gdo("fv", tuned.title, *FEW_WORDS, "--force", "--results", str(results))
    assert shown.exit_code == 0, shown.output
    found = tuned.analysis("fv")
    assert found is not None
    for line in ("the run", "base, other prompts", "random heads", "the base"):
        assert line in shown.stdout
    assert f"{found['run']['cosine_base_heads']['value']:.2f} [" in shown.stdout
    head = found["models"]["run"]["heads"][0]
    assert f"{head['layer']}.{head['head']}" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 130


@pytest.mark.slow
def test_mistakes_are_told_before_anything_is_measured(
    tuned: RunResult, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fv, "measure", lambda *_: pytest.fail("something was measured"))
    where = ["--force", "--results", str(results)]
    for words, message in (
        (["--heads", "17"], "--heads 17: the model has 16"),
        (["--shots", "60", *FEW_WORDS[2:]], "the model takes 1024: give fewer --shots"),
        (["--precision", "fp16"], "--precision=fp16: unknown"),
        (["--shots", "999"], "--shots 999: the training split has"),
    ):
        refused = gdo("fv", tuned.title, *words, *where)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert message in refused.stderr
    bare = trained(results, "method=sft", "seed=7", "save_weights=false")
    refused = gdo("fv", bare.title, *where)
    assert refused.exit_code == 2
    assert "its weights were not kept" in refused.stderr


def test_an_analysis_that_cannot_be_read_is_named(tuned: RunResult) -> None:
    (tuned.path / "analysis").mkdir(exist_ok=True)
    file = tuned.path / "analysis" / "broken.json"
    for content in ("{", "[]"):
        file.write_text(content, "utf-8")
        with pytest.raises(UserError, match=r"broken\.json: cannot be read .* remove it"):
            tuned.analysis("broken")
    assert tuned.analysis("none") is None


def test_the_decoder_found_in_a_wrapper_is_the_text_model() -> None:
    base = tiny_model("gemma3_multimodal")
    heads = Heads(base)
    assert len(heads) == len(find_decoder(base)) * N_HEADS
    assert heads.head_dim == HEAD_DIM


# -------------------------------------------------------------------------------------------- figures

TABLE = """# @package _global_
defaults:
  - override /model: tiny
  - override /data: sample
  - override /probe: []
train: {steps: 4, precision: fp32, batch_size: 4}
evaluation: {every: 2, items: 8, final_items: 8, kl_prompts: 2}
sweep: {method: "sft,g_freeze"}
figure:
  kind: function_vectors
  published: {scitail: {sft: [2, 0.25]}}
"""


@pytest.mark.slow
def test_the_table_is_drawn_from_the_analyses_and_says_which_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(TABLE, "utf-8")
    points = load_grid(["experiment=mine", f"results_dir={results}"], tmp_path)
    first, second = (run(config) for _, config in points)
    found = analyse(first, FEW, tmp_path)
    _, _, table = plot_all(["mine"], results, tmp_path)
    assert f"gdo analyze fv {second.title}" in "".join(capsys.readouterr().out.split("\n"))
    with table.open(newline="", encoding="utf-8") as stream:
        rows = {row["row"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["SFT", "base, other prompts", "random heads"]
    for name, numbers in (("SFT", found["run"]), ("base, other prompts", found["ceiling"])):
        for key, number in numbers.items():
            assert float(rows[name][key]) == number["value"]
            assert float(rows[name][f"{key}_high"]) == number["high"]
    assert float(rows["random heads"]["overlap"]) == found["chance"]["overlap"]["value"]
    assert rows["SFT"]["published_cosine"] == "0.25"
    lines = table.with_suffix(".md").read_text("utf-8").splitlines()
    assert len(lines) == 2 + len(rows)
    assert f"{found['run']['overlap']['value']:g}/3 [" in lines[2]
    analyse(second, FEW, tmp_path)
    plot_all(["mine"], results, tmp_path)
    assert "not analysed" not in capsys.readouterr().out
    assert "G-Freeze" in table.read_text("utf-8")
