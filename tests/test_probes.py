"""Claims about probes: PIQA, WinoGrande's format and words, divergence on texts, rows that are held out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BOS, RunFactory, logits, perturb, random_ids
from torch import Tensor, nn
from transformers import PreTrainedModel

from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.dataset import Dataset, RowError
from gdo_cli.data.rows import SAMPLE_DIR
from gdo_cli.evaluation.divergence import TextReference
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.evaluation.run_data import DRAWN, held_out, subset
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import build_evaluator, read_run_data
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.tokens import Encoded, Encoder, Query
from gdo_cli.models.loading import Loaded
from gdo_cli.probes.piqa import PIQA
from gdo_cli.probes.winogrande import WinoGrande
from gdo_cli.runs.find import find_runs
from gdo_cli.runs.items import items_of
from gdo_cli.stats.outcomes import Answer, mean
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity


def answering(model: PreTrainedModel) -> AnswerLM:
    return AnswerLM(model, torch.float32)


@pytest.fixture(scope="module")
def sharp(tiny_loaded: Loaded) -> Loaded:
    """The bundled tiny model, moved far from its initial state."""
    model = copy.deepcopy(tiny_loaded.model).float()
    perturb(model, 0.1)
    return Loaded(model, tiny_loaded.tokenizer, {})


def evaluator(config: RunConfig, loaded: Loaded) -> Evaluator:
    return build_evaluator(config, read_run_data(config), Encoder.of(loaded.tokenizer, []))


@torch.no_grad()
def table(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """(T, V): log-probabilities by the model's own forward."""
    return logits(model, torch.tensor([ids]))[0].log_softmax(-1)


# ----------------------------------------------------------------------------------------- PIQA


def test_piqa_equals_the_likelier_solution_in_a_loop(tiny_run: RunFactory, sharp: Loaded) -> None:
    config = tiny_run("probe=[winogrande,piqa]", "probe.piqa.items=30")
    suite = evaluator(config, sharp)
    found = suite.evaluate_probe(answering(sharp.model), "piqa")
    tokenizer, bos = sharp.tokenizer, int(sharp.tokenizer.bos_token_id)
    right, right_per_byte = [], []
    for row in (item.row for item in suite.probes["piqa"]):
        before = [bos, *tokenizer.encode(f"Question: {row['goal']}\nAnswer:", add_special_tokens=False)]
        sums = []
        for solution in (row["sol1"], row["sol2"]):
            after = tokenizer.encode(f" {solution}", add_special_tokens=False)
            rows = table(sharp.model, before + after)[len(before) - 1 : -1]
            sums.append(float(rows.gather(1, torch.tensor(after)[:, None]).sum()))
        lengths = [len(row[key].encode()) for key in ("sol1", "sol2")]
        right.append(int(np.argmax(sums)) == row["label"])
        right_per_byte.append(int(np.argmax(np.divide(sums, lengths))) == row["label"])
    assert found.metrics["piqa/likelihood"] == pytest.approx(np.mean(right))
    assert found.metrics["piqa/likelihood_norm"] == pytest.approx(np.mean(right_per_byte))
    assert 0 < sum(right) < 30
    assert [row["likelihood"] for row in found.predictions] == right


def test_piqa_shows_solved_examples_with_their_solution() -> None:
    shot = {"goal": "Stop a squeak.", "sol1": "Oil it.", "sol2": "Wash it.", "label": 0}
    row = {"goal": "Dry shoes.", "sol1": "Wet them.", "sol2": "Stuff them.", "label": 1}
    queries = PIQA(Dataset("piqa")).queries(row, [shot])
    shown = "Question: Stop a squeak.\nAnswer: Oil it.\n\nQuestion: Dry shoes.\nAnswer:"
    assert queries == [Query(shown, " Wet them.", ends=False), Query(shown, " Stuff them.", ends=False)]


@pytest.mark.parametrize("label", [-1, 2, "1", None, True])
def test_piqa_without_a_label_is_a_bad_row(label: Any) -> None:  # the public test split has -1
    with pytest.raises(RowError, match=r"'label' is .*, not 0 or 1"):
        PIQA(Dataset("piqa")).queries({"goal": "a", "sol1": "b", "sol2": "c", "label": label}, [])


# ----------------------------------------------------------------------------- format and knowledge

ROW = {"sentence": "Ann left Bea as _ was late.", "option1": "Ann", "option2": "Bea", "answer": "2"}


def answer(exact: bool, logprob: float = 0.0) -> Answer:
    return Answer(logprob, 1, exact, exact, "")


def test_winogrande_asks_for_both_options_after_the_same_prompt_the_right_one_first() -> None:
    right, wrong, first, second = WinoGrande(Dataset("winogrande")).queries(ROW, [])
    assert right.context == wrong.context
    assert (right.continuation, wrong.continuation, right.ends, wrong.ends) == (" Bea", " Ann", True, True)
    assert (first.context, second.context) == ("Ann left Bea as Ann", "Ann left Bea as Bea")


def test_exact_match_is_the_share_that_names_an_option_times_the_share_of_those_that_is_right() -> None:
    probe = WinoGrande(Dataset("winogrande"))
    rng = np.random.default_rng(0)
    found = []
    for said in rng.choice(["right", "wrong", "neither"], size=200, p=[0.3, 0.2, 0.5]):
        given = [answer(said == "right"), answer(said == "wrong"), answer(False), answer(False, 1.0)]
        found.append(probe.outcomes(ROW, given))
    exact, named, right = (mean([f[key] for f in found]) for key in ("exact_match", "named", "named_right"))
    assert exact.value == pytest.approx(named.value * right.value)
    hits = [f["exact_match"].value for f in found if f["named"].value]
    assert right.value == pytest.approx(np.mean(hits))
    # That of the share among those named, up to one item more or less.
    assert right.se == pytest.approx(np.std(hits, ddof=1) / np.sqrt(len(hits)), rel=0.01)


@pytest.fixture
def half_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that names the right option in every fourth item of WinoGrande, the wrong one in the next."""
    usual = Evaluator._answers

    def answers(self: Evaluator, lm: AnswerLM, queries: list[Encoded], *rest: Any) -> list[Answer]:
        if "winogrande" not in rest:
            return usual(self, lm, queries, *rest)
        return [answer(i % 16 in (0, 5)) for i in range(len(queries))]

    monkeypatch.setattr(Evaluator, "_answers", answers)


@torch.no_grad()
def greedy(loaded: Loaded, encoder: Encoder, context: list[int], n: int) -> str:
    ids: list[int] = []
    while len(ids) < n:
        token = int(logits(loaded.model, torch.tensor([context + ids]))[0, -1].argmax())
        if token in encoder.answer_ends.tokens:
            break
        ids.append(token)
    return str(loaded.tokenizer.decode(ids, skip_special_tokens=True))


@pytest.mark.usefixtures("half_named")
def test_answers_that_name_no_option_are_kept_in_the_models_own_words(
    tiny_run: RunFactory, sharp: Loaded
) -> None:
    suite = evaluator(tiny_run("probe.winogrande.items=8", "probe.winogrande.words=5"), sharp)
    found = suite.evaluate_probe(answering(sharp.model), "winogrande")
    named = [place % 4 in (0, 1) for place in range(8)]
    assert [row["named"] for row in found.predictions] == named
    assert ["answered" not in row for row in found.predictions] == named
    for item, row in zip(suite.probes["winogrande"], found.predictions, strict=True):
        if not row["named"]:
            assert row["answered"] == greedy(sharp, suite.encoder, item.queries[0].context, 5)
    assert len({row.get("answered") for row in found.predictions}) > 1
    names = ("exact_match", "named", "named_right")
    assert [found.metrics[f"winogrande/{name}"] for name in names] == [0.25, 0.5, 0.5]


@pytest.mark.usefixtures("half_named")
def test_what_is_right_of_those_named_is_told_of_those_items_alone(tiny_run: RunFactory) -> None:
    run = experiment.run(tiny_run("method=frozen", "probe.winogrande.items=8"))
    found = items_of(run, "winogrande/named_right")
    assert found.values == [1.0, 0.0, 1.0, 0.0]
    assert found.weights == [1.0] * 4
    assert found.interval() == found.measure.interval([1, 0, 1, 0], [1.0] * 4, [])
    assert found.identity[-1] == [0, 1, 4, 5]
    assert items_of(run, "winogrande/named").identity[-1] == 8


def test_no_words_are_kept_unless_asked_for_and_none_named_are_no_score(
    tiny_run: RunFactory, sharp: Loaded
) -> None:
    suite = evaluator(tiny_run("probe.winogrande.words=0"), sharp)
    found = suite.evaluate_probe(answering(sharp.model), "winogrande")
    assert all("answered" not in row for row in found.predictions)
    assert found.metrics["winogrande/named"] == 0.0
    assert "winogrande/named_right" not in found.metrics


@pytest.mark.parametrize("shots", [0, 5, 20])
def test_winogrande_may_show_no_examples_or_many(tiny_run: RunFactory, sharp: Loaded, shots: int) -> None:
    suite = evaluator(tiny_run(f"probe.winogrande.shots={shots}"), sharp)
    contexts = [item.queries[0].context for item in suite.probes["winogrande"]]
    texts = [sharp.tokenizer.decode(context) for context in contexts]
    assert [text.count("Sentence:") for text in texts] == [shots + 1] * 4


# ----------------------------------------------------------------------------- divergence on texts

TEXTS = [Encoded([BOS], random_ids(n, seed=n).tolist(), ends=False) for n in (5, 19, 12)]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer places at a time than the texts have."""
    monkeypatch.setattr("gdo_cli.evaluation.divergence.ROWS", 4)


@pytest.mark.usefixtures("pieces")
def test_the_divergence_on_texts_is_torchs_kl_div_over_every_token(any_model: PreTrainedModel) -> None:
    base, moved = copy.deepcopy(any_model), any_model
    perturb(moved, 0.05, seed=1)
    found = TextReference(answering(base), TEXTS).divergence(answering(moved))
    assert [outcome.weight for outcome in found] == [5, 19, 12]
    for text, outcome in zip(TEXTS, found, strict=True):
        ids = [*text.context, *text.continuation]
        before, now = table(base, ids)[:-1], table(moved, ids)[:-1]
        kl = nn.functional.kl_div(now, before, reduction="none", log_target=True).sum(-1)
        assert outcome.value == pytest.approx(float(kl.double().mean()), rel=1e-4)
        assert outcome.value > 1e-3


def test_on_texts_a_model_does_not_diverge_from_itself(any_model: PreTrainedModel) -> None:
    lm = answering(any_model)
    assert [outcome.value for outcome in TextReference(lm, TEXTS).divergence(lm)] == [0.0] * 3


def test_the_base_is_remembered_when_its_weights_are_changed_in_place(any_model: PreTrainedModel) -> None:
    base, lm = copy.deepcopy(any_model), answering(any_model)
    reference = TextReference(lm, TEXTS)
    perturb(any_model, 0.05, seed=1)
    found = [outcome.value for outcome in reference.divergence(lm)]
    wanted = [outcome.value for outcome in TextReference(answering(base), TEXTS).divergence(lm)]
    assert found == pytest.approx(wanted, rel=1e-6)


def test_a_run_tells_the_loss_and_the_divergence_on_general_text(tiny_run: RunFactory) -> None:
    texts = ("perplexity", "prose")
    few = (f"probe.{name}.{key}" for name in texts for key in ("items=6", "max_characters=250"))
    words = ("probe=[winogrande,perplexity,prose]", "method=sft", "train.lr=1e-2", "train.steps=2")
    run = experiment.run(tiny_run(*words, *few))
    for part in texts:
        assert run.evaluations[0][f"{part}/kl"] == 0.0
        rows = [row for row in run.predictions if row["part"] == part]
        weights = [row["kl_weight"] for row in rows]
        assert weights == [row["loss_weight"] for row in rows]
        average = np.average([row["kl"] for row in rows], weights=weights)
        assert run.final[f"{part}/kl"] == pytest.approx(average, abs=1e-6)
        assert run.final[f"{part}/kl"] > 0
        assert run.final[f"{part}/kl_se"] > 0
    assert run.final["prose/loss"] != run.final["perplexity/loss"]


def test_runs_recorded_before_measure_no_divergence_on_texts(tiny_run: RunFactory) -> None:
    before = ("probe.perplexity.kl=false", "probe.perplexity.control_tokens=true", "probe.winogrande.words=0")
    content = identity(tiny_run("probe=[winogrande,perplexity]", *before))["probe"]
    new = {"kl", "control_tokens", "words"}
    assert new.isdisjoint(content["perplexity"].keys() | content["winogrande"].keys())


# --------------------------------------------------------------------------------------- two halves

# Usable rows and items of the committed runs: winogrande, arc_easy, lambada, perplexity; and PIQA's.
SIZES = [(1267, 300), (1267, 200), (2376, 300), (2376, 100), (5153, 300), (2891, 60), (4359, 60), (1838, 300)]


@pytest.mark.few(3)
@pytest.mark.parametrize(("rows", "items"), SIZES)
def test_no_row_that_committed_runs_were_asked_is_held_out(rows: int, items: int) -> None:
    assert items in DRAWN
    everything = [f"row {i}" for i in range(rows)]
    held = held_out(everything)
    assert set(held).isdisjoint(subset(everything, items))
    assert set(subset(held, 300)).isdisjoint(subset(everything, items))
    assert len(held) >= rows - sum(DRAWN)
    assert held == [row for row in everything if row in set(held)]


def test_the_first_programme_drew_no_other_numbers_of_items() -> None:
    """What the second one holds out are rows that these were never asked."""
    runs = find_runs(Path(__file__).resolve().parent.parent / "results")
    first = [run for run in runs if "optimizer" not in run.record.config["train"]]
    asked = {probe["items"] for run in first for probe in run.record.config["probe"].values()}
    assert asked
    assert asked <= set(DRAWN)


@pytest.fixture
def many_rows(tmp_path: Path) -> str:
    """ARC-Easy's sample rows, five times each under other names."""
    folder = tmp_path / "arc_easy"
    folder.mkdir()
    lines = (SAMPLE_DIR / "arc_easy" / "test.jsonl").read_text("utf-8").splitlines()
    many = [line.replace('"question":"', f'"question":"{n}. ') for n in range(5) for line in lines]
    (folder / "test.jsonl").write_text("\n".join(many), "utf-8")
    return f"+probe.arc_easy.dataset.path={folder}"


def test_halves_of_a_run_share_no_row(tiny_run: RunFactory, many_rows: str) -> None:
    def asked(*words: str) -> list[str]:
        config = tiny_run("probe=[winogrande,arc_easy]", many_rows, *words)
        return [row["question"] for row in read_run_data(config).probes["arc_easy"][0]]

    explored, whole = asked("probe.arc_easy.items=300"), asked("probe.arc_easy.items=null")
    words = ("evaluation.half=holdout", "~probe.winogrande")
    held = asked("probe.arc_easy.items=null", *words)
    assert len(whole) == 800
    assert set(held).isdisjoint(explored)
    assert 300 < len(held) <= 500
    assert set(asked("probe.arc_easy.items=50", *words)) < set(held)


def test_a_probe_without_rows_to_spare_is_named(tiny_run: RunFactory) -> None:
    with pytest.raises(UserError, match=r"evaluation\.half=holdout: probe winogrande has 160 rows"):
        read_run_data(tiny_run("evaluation.half=holdout"))
    with pytest.raises(UserError, match=r"evaluation\.half=hold: unknown; did you mean 'holdout'"):
        tiny_run("evaluation.half=hold")


def test_only_the_held_out_half_changes_a_runs_id(tiny_run: RunFactory) -> None:
    plain = tiny_run()
    assert plain.id == tiny_run("evaluation.half=explore").id
    assert plain.id != tiny_run("evaluation.half=holdout").id
    assert "half" not in identity(plain)["evaluation"]
