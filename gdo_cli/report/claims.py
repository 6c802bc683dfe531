"""The paper's claims, each with what it is checked by; and what the paper leaves open.

To add one: an entry here. Rules and margins are those of results/PROTOCOL.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gdo_cli.report.checks import Check, Compared, Counted, NearZero, Ranks, Vectors
from gdo_cli.report.evidence import SCORE, Of

WINOGRANDE, LIKELIHOOD = "winogrande/exact_match", "winogrande/likelihood"
TASKS = {
    "multi30k": "translation (Multi30k, in MTNT's place)",
    "scitail": "entailment (SciTail)",
    "qasc": "science Q&A (QASC)",
    "mathqa_gain": "MathQA (trained on a subset)",
}
RATES = (5e-6, 2e-5, 5e-5, 2e-4, 1e-3)


@dataclass(frozen=True)
class Claim:
    """What the paper says, or what it leaves open, and how that is checked.

    Attributes:
        statement: the paper's, with its place there; or the question.
        figures: experiments whose figures show it.
    """

    title: str
    statement: str
    checks: tuple[Check, ...]
    figures: tuple[str, ...] = ()


def _on(experiment: str, task: str, method: str) -> Of:
    return Of(experiment, {"task": task, "method": method})


def _grown(experiment: str, task: str) -> Of:
    """The paper's variant for the task: G-Train for MathQA, G-Freeze for the others (section 4)."""
    return _on(experiment, task, "g_train" if task == "mathqa_gain" else "g_freeze")


def _retention() -> Iterator[Check]:
    for experiment, at in (("fig2", ""), ("fig2_published", ", published rate")):
        for task, name in TASKS.items():
            what = f"{name}{at}: generated answers, untouched → grown"
            yield Compared(what, _on(experiment, task, "frozen"), _grown(experiment, task), WINOGRANDE)


def _collapse() -> Iterator[Check]:
    for experiment, at in (("fig2", ""), ("fig2_published", ", published rate")):
        for task in ("multi30k", "scitail"):
            yield NearZero(
                f"{TASKS[task]}{at}: generated answers of SFT, below a tenth?", _on(experiment, task, "sft")
            )


def _parity() -> Iterator[Check]:
    for task, name in TASKS.items():
        yield Compared(f"{name}: task score, SFT → grown", _on("fig2", task, "sft"), _grown("fig2", task))


def _few_layers() -> Iterator[Check]:
    for task in ("multi30k", "scitail", "qasc"):
        every, six = (Of("fig3", {"task": task, "layers": n}) for n in ("all", 6))
        yield Compared(f"{TASKS[task]}: task score, all layers → six", every, six)


def _more_layers() -> Iterator[Check]:
    for figure, name in (("fig4a", "SciTail, G-Freeze"), ("fig4b", "MathQA, G-Train")):
        one, most = Of(figure, {"layers": 1}), Of(figure, {"layers": 15})
        yield Compared(f"{name}: task score, 1 layer → 15", one, most, rule="better")
    one, most = Of("fig4a", {"layers": 1}), Of("fig4a", {"layers": 15})
    what = "SciTail, G-Freeze: WinoGrande generated, 1 layer → 15"
    yield Compared(what, one, most, WINOGRANDE, margin=0.02)


def _vectors() -> Iterator[Check]:
    for task in ("scitail", "multi30k"):
        sft, ours = _on("table1", task, "sft"), _on("table1", task, "g_freeze")
        what = f"{TASKS[task]}: cosine over the base's heads, SFT → G-Freeze"
        yield Vectors(what, sft, ours, "cosine_base_heads")
        yield Vectors(f"{TASKS[task]}: heads shared of ten, SFT → G-Freeze", sft, ours, "overlap")


def _from_zero() -> Iterator[Check]:
    copied = _on("fig2", "scitail", "g_freeze")
    all_trained, new_trained = (Of("fig7", {"method.train": t, "layers": 18}) for t in ("all", "new"))
    yield Compared("task score, from zero with all trained → from copies", all_trained, copied, rule="better")
    yield Compared(
        "WinoGrande generated, from zero with the new trained → from copies",
        new_trained,
        copied,
        WINOGRANDE,
        "better",
    )


def _attention() -> Iterator[Check]:
    mlp = _on("fig2", "scitail", "g_freeze")
    for grow, name in (("head_dim", "head dimension"), ("heads", "heads")):
        alone, both = (Of("fig8", {"method.grow": grow, "method.with_mlp": b}) for b in (False, True))
        yield Compared(f"task score, {name} grown → MLP grown", alone, mlp, rule="better")
        yield Compared(f"task score, {name} and MLP grown → MLP alone", both, mlp)


def _growth_or_training() -> Iterator[Check]:
    for experiment, how, seeds in (("frontier", "best rate, one seed", 1), ("seeds", "three seeds", 3)):
        for before, after, names in (
            ("mlp_only", "g_freeze", "MLPs in place → G-Freeze"),
            ("sft", "g_freeze", "SFT → G-Freeze"),
            ("sft", "mlp_only", "SFT → MLPs in place"),
        ):
            first, second = (Of(experiment, {"method": method}) for method in (before, after))
            yield Compared(f"task score, {names}; {how}", first, second, seeds=seeds)
            yield Compared(
                f"WinoGrande generated, {names}; {how}", first, second, WINOGRANDE, "better", seeds=seeds
            )


def _published_rate() -> Iterator[Check]:
    changed: dict[str, dict[str, Any]] = {
        "as it stands": {
            "train.max_grad_norm": None,
            "train.lr_scheduler": "constant_with_warmup",
            "train.weight_decay": 0.0,
            "train.loss_on": "answer",
            "train.gradient_accumulation_steps": 1,
        },
        "gradients clipped at 1": {"train.max_grad_norm": 1.0},
        "60 steps of warm-up, then down to zero": {"train.lr_scheduler": "cosine"},
        "weight decay 0.1": {"train.weight_decay": 0.1},
        "loss on the prompt too": {"train.loss_on": "sequence"},
        "batches of 64": {"train.gradient_accumulation_steps": 4},
    }
    sft, untouched = _on("fig2", "scitail", "sft"), _on("fig2", "scitail", "frozen")
    for name, settings in changed.items():
        run = Of("published_rate", settings)
        yield Compared(f"{name}: task score, SFT at its own rate → G-Freeze at 1e-3", sft, run)
        yield Compared(f"{name}: WinoGrande generated, untouched → G-Freeze", untouched, run, WINOGRANDE)


def _g_train() -> Iterator[Check]:
    for rate in RATES:
        first, second = (Of("frontier", {"method": m, "train.lr": rate}) for m in ("up_only", "g_train"))
        for measure, name in ((SCORE, "task score"), (WINOGRANDE, "WinoGrande generated")):
            what = f"{name} at {rate:g}, gate and up in place → G-Train"
            yield Compared(what, first, second, measure, "told")


def _format() -> Iterator[Check]:
    measures = {
        WINOGRANDE: "WinoGrande, generated",
        LIKELIHOOD: "WinoGrande, likelihood",
        "arc_easy/likelihood": "ARC-Easy, likelihood",
        "lambada/last_word": "LAMBADA, last word",
    }
    for method, label in (("sft", "SFT"), ("g_freeze", "G-Freeze")):
        for measure, name in measures.items():
            untouched, trained = _on("fig2", "scitail", "frozen"), _on("fig2", "scitail", method)
            yield Compared(f"{name}, untouched → {label}", untouched, trained, measure)


PAPER = (
    Claim(
        "Growth does not forget",
        "“almost perfectly preserving original domain knowledge” (4.1, Figure 2), read on WinoGrande",
        tuple(_retention()),
        ("fig2", "fig2_published"),
    ),
    Claim(
        "Full fine-tuning collapses",
        "“plummeting to near-zero on tasks with large domain shifts” (4.1, Figures 2a and 2b)",
        tuple(_collapse()),
        ("fig2",),
    ),
    Claim(
        "Growth learns the task as well as full fine-tuning",
        "“downstream performance comparable or superior to standard fine-tuning” (4.1, Figure 2)",
        tuple(_parity()),
        ("fig2", "rates"),
    ),
    Claim(
        "G-Train is better than G-Freeze on MathQA",
        "“On more cognitively demanding tasks like MathQA, the G-Train variant […] outperforms G-Freeze” "
        "(4.1)",
        (
            Compared(
                "task score, G-Freeze → G-Train",
                _on("fig2", "mathqa_gain", "g_freeze"),
                _on("fig2", "mathqa_gain", "g_train"),
                rule="better",
            ),
        ),
        ("fig2",),
    ),
    Claim(
        "A third of the layers is enough",
        "“growing a targeted subset of 9-10 layers consistently matches the performance of growing all "
        "layers” (4.2, Figure 3); 6 of 18 layers here",
        tuple(_few_layers()),
        ("fig3", "layer_ranking"),
    ),
    Claim(
        "More grown layers learn more",
        "“new task performance scales positively with the number of layers grown”; the original accuracy of "
        "G-Freeze remains “stable within a ±2% range” (4.3, Figure 4)",
        tuple(_more_layers()),
        ("fig4a", "fig4b"),
    ),
    Claim(
        "Hard tasks move the weights in more directions",
        "“Cognitively demanding tasks like MathQA, involve high-rank weight updates in almost all layers” "
        "(Figure 5)",
        (Ranks("fig5", "scitail", "mathqa_gain"), Ranks("fig5", "multi30k", "mathqa_gain")),
        ("fig5",),
    ),
    Claim(
        "Growth keeps the function vectors",
        "cosine 0.95 with growth and 0.28 with SFT, 5 and 2 heads of ten on entailment; 0.76 and 0.58, 5 "
        "and 3 on translation (4.5, Table 1)",
        tuple(_vectors()),
        ("table1",),
    ),
    Claim(
        "Growing from zero fails",
        "trained jointly it “significantly underperforms our method on the fine-tuning domain”; with the "
        "original frozen it “suffers from severe catastrophic forgetting” (C.2, Figure 7)",
        tuple(_from_zero()),
        ("fig7",),
    ),
    Claim(
        "Growing attention is inferior",
        "“both strategies for expanding the attention module yield inferior performance”; both at once "
        "“offered no additional benefit over growing MLP alone” (C.3, Figure 8)",
        tuple(_attention()),
        ("fig8",),
    ),
    Claim(
        "It trains about 60 %, and about 30 % with ten layers",
        "“training only ~60% of the original model’s parameters”, “from ~60% of the full model to ~30%” "
        "(1 and 4.2; Gemma 3 1B)",
        (
            Counted("G-Freeze, all 26 layers", ("model=gemma3_1b", "method=g_freeze"), 0.60),
            Counted("G-Freeze, 10 layers", ("model=gemma3_1b", "method=g_freeze", "layers=10"), 0.30),
            Counted("G-Train, 10 layers", ("model=gemma3_1b", "method=g_train", "layers=10"), 0.30),
        ),
    ),
)

QUESTIONS = (
    Claim(
        "Does growth add anything to training the MLPs in place?",
        "`mlp_only` trains the same matrices without growing them. With one seed, each at that of its "
        "finished rates which has the best score on validation items (`frontier`); with three, at the rates "
        "of `seeds`.",
        tuple(_growth_or_training()),
        ("frontier", "seeds"),
    ),
    Claim(
        "Does anything make the published rate work?",
        "The paper trains at 1e-3 and leaves batch size, warm-up, clipping and loss unsaid. One of them "
        "changed at a time, G-Freeze on SciTail:",
        tuple(_published_rate()),
        ("published_rate",),
    ),
    Claim(
        "Is G-Train anything but tuning gate and up?",
        "In exact arithmetic it is the same training, so it folds back to the original size "
        "(tests/test_equivalences.py). Measured in bf16, rate by rate:",
        tuple(_g_train()),
        ("rates",),
    ),
    Claim(
        "Is knowledge lost, or format?",
        "A generated answer needs the format; the likelihood of given options does not. On SciTail:",
        tuple(_format()),
        ("drift",),
    ),
    Claim("What does it cost?", "Score and retention against parameters, time and memory.", (), ("cost",)),
)
