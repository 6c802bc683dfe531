"""A guard stands on every path, before anything slow: what gdo computes of a model is what the model computes
itself, and what it cannot run, ask or export is said first."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RunFactory, logits, perturb, random_ids, random_queries
from families import FAMILIES, UNLIKE, by_family, of_family
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.commands import export
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.plan import why_not
from gdo_cli.experiment.reopen import Opened
from gdo_cli.growth.folding import check_stock, fold, natural_form, widen
from gdo_cli.lm.agreement import answer_logits, check_forward
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import pad
from gdo_cli.lm.decoder import max_positions
from gdo_cli.lm.scoring import score
from gdo_cli.lm.tokens import Encoded
from gdo_cli.methods.base import Method
from gdo_cli.methods.grow import AttentionGrow, GFreeze, GTrain
from gdo_cli.models.hub import HubModel
from gdo_cli.models.loading import Loaded
from gdo_cli.runs.folder import RunFolder
from gdo_cli.support.errors import RunFailed, UserError

QUERIES = random_queries(6)
START = random_ids(60, seed=99).tolist()  # from 48 on a common beginning is computed once
SCALED = ["cohere", "cohere2", "granite", "granitemoe", "hyperclovax"]


def answering(model: PreTrainedModel) -> AnswerLM:
    return AnswerLM(model, torch.float32).eval()


@torch.no_grad()
def own_logprob(model: PreTrainedModel, query: Encoded) -> float:
    """Log-likelihood of the continuation by the model's own forward pass, in nats."""
    logprobs = logits(model, torch.tensor([query.context + query.continuation]))[0].log_softmax(-1)
    first = len(query.context) - 1
    return sum(float(logprobs[first + i, token]) for i, token in enumerate(query.continuation))


# ------------------------------------------------------------------------------------------- D1: heads


@pytest.mark.few(5)
@by_family(FAMILIES)
def test_every_family_scores_as_its_own_forward_does(name: str) -> None:
    model = of_family(name)
    found = [one.logprob for one in score(answering(model), QUERIES, 256)]
    assert found == pytest.approx([own_logprob(model, q) for q in QUERIES], abs=1e-4)


@by_family(FAMILIES)
def test_every_family_scores_a_common_beginning_as_if_it_were_alone(name: str) -> None:
    """RWKV, Mamba and the first GPT have no keys and values to hand on."""
    model = of_family(name)
    queries = [Encoded(START + q.context, q.continuation) for q in QUERIES]
    found = [one.logprob for one in score(answering(model), queries, 1024)]
    assert found == pytest.approx([own_logprob(model, q) for q in queries], abs=2e-4)


@pytest.mark.few(5)
@by_family(FAMILIES)
def test_every_family_trains_on_the_loss_of_its_own_forward(name: str) -> None:
    model = of_family(name).requires_grad_(True)
    rows = [q.context + q.continuation for q in QUERIES]
    places = [b * max(map(len, rows)) + t for b, q in enumerate(QUERIES) for t in list(q.asked)[:-1]]
    lm = answering(model)
    hidden_ND = lm.hidden(pad(rows), torch.tensor(places), lengths=[len(row) for row in rows])
    loss = lm.loss(hidden_ND, torch.tensor([token for q in QUERIES for token in q.continuation]))
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for query, row in zip(QUERIES, rows, strict=True):
        logprobs = model(input_ids=torch.tensor([row]), use_cache=False).logits[0].log_softmax(-1)
        first = len(query.context) - 1
        (-sum(logprobs[first + i, token] for i, token in enumerate(query.continuation))).backward()
    wanted = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=2e-4, msg=key)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(SCALED), exponent=st.floats(-4, 4))
def test_a_head_may_have_any_scale(name: str, exponent: float) -> None:
    key = "logit_scale" if name.startswith("cohere") else "logits_scaling"
    model = of_family(name)
    setattr(model.config, key, math.exp(exponent))
    model.logit_scale = math.exp(exponent) if name.startswith("cohere") else None
    own = torch.cat([logits(model, torch.tensor([q.context + q.continuation]))[0] for q in QUERIES])
    places = [len(q.context) - 1 + n for q in QUERIES for n in range(len(q.continuation) + 1)]
    starts = torch.tensor([len(q) for q in QUERIES]).cumsum(0) - torch.tensor([len(q) for q in QUERIES])
    owners = [i for i, q in enumerate(QUERIES) for _ in range(len(q.continuation) + 1)]
    wanted = own[torch.tensor(places) + starts[owners]]
    torch.testing.assert_close(answer_logits(answering(model), QUERIES), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SCALED)
def test_a_copied_head_scales_too(name: str) -> None:
    lm = answering(of_family(name))
    with torch.no_grad():
        hidden_ND = lm.hidden(pad([QUERIES[0].context]), torch.tensor([0]))
        assert torch.equal(lm.copied_head()(hidden_ND), lm.logits(hidden_ND))


@pytest.mark.few(4)
@pytest.mark.parametrize("name", UNLIKE)
def test_what_gdo_cannot_reproduce_is_refused(name: str) -> None:
    with pytest.raises(RunFailed, match=rf"{type(of_family(name)).__name__}: (logits|gdo cannot|a prompt)"):
        check_forward(answering(of_family(name)), QUERIES)


@by_family(FAMILIES)
def test_what_gdo_can_reproduce_is_not(name: str) -> None:
    check_forward(answering(of_family(name)), QUERIES)


# -------------------------------------------------------------------------------- folders and the paths


def folder_of(model: Any, loaded: Loaded, target: Path) -> Path:
    model.save_pretrained(target)
    loaded.tokenizer.save_pretrained(target)
    return target


def with_text(name: str, loaded: Loaded, target: Path, **options: Any) -> Path:
    """A folder of the family with the bundled tokenizer."""
    options = (
        {"max_position_embeddings": 1024} | options
        if "max_position_embeddings" in FAMILIES.get(name, UNLIKE.get(name, {}))
        else options
    )
    return folder_of(of_family(name, vocabulary=len(loaded.tokenizer), **options), loaded, target)


def run_words(words: list[str]) -> tuple[int, list[str]]:
    answer = CliRunner().invoke(app, words)
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.exit_code, answer.stderr.strip().splitlines()


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "command",
    [
        ["train", "data=sample", "method=sft", "train.steps=1"],
        ["evaluate", "data=sample", "--items", "2"],
        ["generate"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_a_head_that_gdo_does_not_know(
    command: list[str], tiny_loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_text("modernbert-decoder", tiny_loaded, tmp_path / "model")
    name, *rest = command
    words = (
        [f"model=custom model.path={path}", "Hello"]
        if name == "generate"
        else ["model=custom", f"model.path={path}"]
    )
    code, said = run_words([name, *words, *rest])
    assert code == 1
    assert "ModernBertDecoderForCausalLM: logits computed for answers alone differ" in said[-1]


def test_evaluate_measures_a_scaled_head_as_transformers_does(
    tiny_loaded: Loaded, tmp_path: Path, tiny_run: RunFactory
) -> None:
    path = with_text("granite", tiny_loaded, tmp_path / "model")
    opened = Opened(tiny_run("model=custom", f"model.path={path}"))
    evaluator, lm = opened.evaluator(), opened.base()
    stock = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).float()
    queries = [q for _, q in evaluator.splits["test"]]
    wanted = [-own_logprob(stock, q) / len(q.continuation) for q in queries]
    weights = [len(q.continuation) for q in queries]
    mean = sum(w * n for w, n in zip(wanted, weights, strict=True)) / sum(weights)
    assert evaluator.evaluate_task(lm, "test").metrics["task/loss"] == pytest.approx(mean, abs=1e-4)


# -------------------------------------------------------------------------- D3: vocabulary and positions


def with_tokens(loaded: Loaded, target: Path, tokens: list[str], special: bool) -> Path:
    path = folder_of(loaded.model, loaded, target)
    tokenizer = type(loaded.tokenizer).from_pretrained(path)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    else:
        tokenizer.add_tokens(tokens)
    tokenizer.save_pretrained(path)
    return path


RATES: Any = {"lr": 1e-3, "warmup_steps": 0}


@settings(max_examples=10, deadline=None)
@given(
    names=st.sets(st.from_regex(r"[A-Za-z]{3,8}q\d{2}", fullmatch=True), min_size=1, max_size=4),
    special=st.booleans(),
)
def test_tokens_without_a_row_are_refused_at_loading(
    names: set[str], special: bool, tmp_path_factory: pytest.TempPathFactory, tiny_loaded: Loaded
) -> None:
    path = with_tokens(tiny_loaded, tmp_path_factory.mktemp("model"), sorted(names), special)
    source = HubModel(path=str(path), **RATES)
    if special:  # no text has them; Gemma 3's tokenizer has one for images, beyond its embedding
        assert len(source.load().tokenizer) == len(tiny_loaded.tokenizer) + len(names)
        return
    with pytest.raises(UserError, match=rf"{len(names)} tokens of the tokenizer \('.*' is \d+\) have no row"):
        source.load()


@pytest.mark.parametrize("text", ["<extra>", "What is <extra>?", "<extra> <extra>"])
def test_a_prompt_with_a_token_that_has_no_row_is_refused(
    text: str, tiny_loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_tokens(tiny_loaded, tmp_path / "model", ["<extra>"], special=True)
    code, said = run_words(["generate", f"model=custom model.path={path}", text])
    assert code == 2
    assert f"has token {len(tiny_loaded.tokenizer)}, which the embedding" in said[-1]


@pytest.mark.parametrize("name", ["gpt2", "llama4_text", "mpt", "gpt_bigcode", "moshi", "codegen"])
def test_positions_are_read_wherever_a_family_has_them(name: str) -> None:
    assert max_positions(of_family(name)) == 128


@pytest.mark.parametrize("name", ["bloom", "mamba", "falcon_mamba"])
def test_a_family_without_an_end_has_none(name: str) -> None:
    assert max_positions(of_family(name)) == sys.maxsize


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.max_length=129"], r"train\.max_length=129: the model has 128 positions; lower it"),
        (["train.max_length=512"], r"train\.max_length=512: the model has 128 positions; lower it"),
        (
            ["train.max_length=128", "probe.winogrande.shots=8"],
            "an item of probe winogrande has .* more than the",
        ),
        (
            ["train.max_length=128", "method=frozen", "method.shots=16"],
            "a validation item of the task.* has ",
        ),
        (
            ["train.max_length=128", "task=multi30k", "task.max_new_tokens=500"],
            "validation item of the task.* has ",
        ),
    ],
)
def test_more_tokens_than_positions_are_refused_before_anything_is_measured(
    words: list[str], message: str, tiny_loaded: Loaded, tmp_path: Path, tiny_run: RunFactory
) -> None:
    path = folder_of(
        of_family("gpt2", vocabulary=len(tiny_loaded.tokenizer)), tiny_loaded, tmp_path / "model"
    )
    opened = Opened(tiny_run("model=custom", f"model.path={path}", "train.batch_size=1", *words))
    with pytest.raises(UserError, match=message):
        opened.evaluator()


# ----------------------------------------------------------------------------------- D4, D5: the export

GROWING: dict[str, Method] = {
    "g_freeze": GFreeze(),
    "g_freeze_k3": GFreeze(k=3),
    "g_train": GTrain(),
    "heads": AttentionGrow(),
    "heads_mlp": AttentionGrow(with_mlp=True),
}


# Told by one forward pass on the meta device: a norm stands between the projections.
RUN_TO_TELL = {("bitnet", name) for name in GROWING} | {("olmoe", "heads")}


def exported(method: Method, model: PreTrainedModel, layers: list[int] | None, folder: Path) -> float:
    """How far the logits of the reloaded checkpoint are from the grown model's."""
    grown = method.prepare(model, layers)
    for parameter in (p for p in grown.parameters() if p.requires_grad and not isinstance(method, GTrain)):
        perturb(nn.ParameterList([parameter]), 0.05)  # G-Train's copies stay equal
    ids = random_ids(2, 24)
    before: Tensor = logits(grown, ids)
    plain: Any = fold(grown) if natural_form(grown) == "folded" else widen(grown)
    plain.save_pretrained(folder)
    found, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return float((logits(found.eval(), ids) - before).abs().max())


@pytest.mark.few(20)
@pytest.mark.parametrize("method", GROWING)
@by_family(FAMILIES)
def test_what_can_be_grown_can_be_exported_or_is_refused_first(
    name: str, method: str, tmp_path: Path
) -> None:
    """By the shape alone, as before step 0; and what is not refused so does reload."""
    config = of_family(name).config
    with torch.device("meta"):
        shape: Any = AutoModelForCausalLM.from_config(config)
    refused = ""
    try:
        grown = GROWING[method].prepare(shape, [0])
        check_stock(grown)
    except ValueError as error:
        refused = str(error)
    if refused or (name, method) in RUN_TO_TELL:
        assert "\n" not in refused
        return
    assert exported(GROWING[method], of_family(name), [0], tmp_path) < 1e-4


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("name", "method", "reason"),
    [
        ("qwen2_moe", "mlp_only", "has experts"),
        ("llama4_text", "g_freeze", "has experts"),
        ("mixtral", "mlp_only", "no MLP that can be grown"),
        ("bitnet", "g_freeze", "cannot run so changed"),
        ("olmo2", "attention_grow", "cannot run so changed"),
        ("mpt", "g_freeze", "does not say how wide"),
        ("falcon", "attention_grow", "no attention that can be grown"),
    ],
)
def test_what_does_not_go_is_said_before_weights_are_read(
    name: str, method: str, reason: str, tiny_loaded: Loaded, tmp_path: Path, tiny_run: RunFactory
) -> None:
    path = with_text(name, tiny_loaded, tmp_path / "model")
    (path / "model.safetensors").write_bytes(b"")  # not even read
    config = tiny_run(
        "model=custom", f"model.path={path}", f"method={method}", results_dir=tmp_path / "results"
    )
    assert why_not(config)
    with pytest.raises(UserError, match=rf"method={method}: .*({reason})"):
        experiment.run(config)
    assert not RunFolder(config.path).path.exists()


@pytest.mark.parametrize("name", ["mixtral", "starcoder2", "qwen2_moe", "glm"])
def test_attention_alone_is_exported_where_no_mlp_can_grow(name: str, tmp_path: Path) -> None:
    assert exported(AttentionGrow(), of_family(name), [0], tmp_path) < 1e-4


def test_an_export_that_rounds_too_much_names_the_way_out(
    tiny_run: RunFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = experiment.run(tiny_run("method=g_freeze", "save_weights=true"))
    monkeypatch.setitem(export.TOLERANCE, "bf16", 1e-9)
    with pytest.raises(RunFailed, match="--dtype fp32"):
        export.export(run, tmp_path / "out", None, "bf16", None)
    assert export.export(run, tmp_path / "out", None, "fp32", None).exact
