"""The paper's claims, each with what it is checked by.

To add one: an entry here. Rules and margins are those of results/PROTOCOL.md. What the paper leaves open
is in :mod:`study.questions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gdo_cli.runs.record import RETENTION
from study.checks import Check, Compared, Counted, Guess, NearZero, Ranks, Vectors
from study.evidence import SCORE, Of

TASKS = {
    "multi30k": "translation (Multi30k, in MTNT's place)",
    "scitail": "entailment (SciTail)",
    "qasc": "science Q&A (QASC)",
    "mathqa_gain": "MathQA (trained on a subset)",
}
GUESS = {
    "scitail": Guess(1 / 2),
    "qasc": Guess(1 / 8, Of("answer_form", {"task": "qasc", "task.answer": "letter"})),
    "mathqa_gain": Guess(1 / 5, Of("answer_form", {"task": "mathqa_gain", "task.answer": "letter"})),
}


@dataclass(frozen=True)
class Claim:
    """What the paper says, or what it leaves open, and how that is checked.

    Attributes:
        statement: the paper's, with its place there; or the question.
        figures: experiments whose figures show it.
        published: checks at the paper's learning rate, where the others are at each method's own.
    """

    title: str
    statement: str
    checks: tuple[Check, ...]
    figures: tuple[str, ...] = ()
    published: tuple[Check, ...] = ()


def on(experiment: str, task: str, method: str) -> Of:
    return Of(experiment, {"task": task, "method": method})


def both(what: str, first: Of, second: Of, rule: str) -> Iterator[Check]:
    """Task score and what is kept of WinoGrande's generated answers."""
    for measure, name in ((SCORE, "task score"), (RETENTION, "WinoGrande generated")):
        yield Compared(f"{name}, {what}", first, second, measure, rule)


def _grown(experiment: str, task: str) -> Of:
    """The paper's variant for the task: G-Train for MathQA, G-Freeze for the others (section 4)."""
    return on(experiment, task, "g_train" if task == "mathqa_gain" else "g_freeze")


AT = {"fig2": "", "fig2_published": ", published rate"}


def _retention(experiment: str) -> Iterator[Check]:
    for task, name in TASKS.items():
        what = f"{name}{AT[experiment]}: generated answers, untouched → grown"
        yield Compared(what, on("fig2", task, "frozen"), _grown(experiment, task), RETENTION)


def _collapse(experiment: str) -> Iterator[Check]:
    for task in ("multi30k", "scitail"):
        what = f"{TASKS[task]}{AT[experiment]}: generated answers of SFT, below a tenth?"
        yield NearZero(what, on(experiment, task, "sft"))


def _parity(experiment: str) -> Iterator[Check]:
    for task, name in TASKS.items():
        sft, grown = on(experiment, task, "sft"), _grown(experiment, task)
        what = f"{name}{AT[experiment]}: task score, SFT → grown"
        yield Compared(what, sft, grown, guess=GUESS.get(task))


def _few_layers() -> Iterator[Check]:
    for task in ("multi30k", "scitail", "qasc"):
        every, six = (Of("fig3", {"task": task, "layers": n}) for n in ("all", 6))
        what = f"{TASKS[task]}: task score, all layers → six"
        yield Compared(what, every, six, guess=GUESS.get(task))


def _more_layers() -> Iterator[Check]:
    for figure, task, name in (
        ("fig4a", "scitail", "SciTail, G-Freeze"),
        ("fig4b", "mathqa_gain", "MathQA, G-Train"),
    ):
        one, most = Of(figure, {"layers": 1}), Of(figure, {"layers": 15})
        yield Compared(f"{name}: task score, 1 layer → 15", one, most, rule="better", guess=GUESS[task])
    one, most = Of("fig4a", {"layers": 1}), Of("fig4a", {"layers": 15})
    what = "SciTail, G-Freeze: WinoGrande generated, 1 layer → 15"
    yield Compared(what, one, most, RETENTION, margin=0.02)


def _ranks() -> Iterator[Check]:
    for task in ("scitail", "multi30k"):
        what = f"{TASKS[task]} → {TASKS['mathqa_gain']}: effective rank of up's change, mean over stages"
        yield Ranks(what, *(Of("fig5", {"task": name}) for name in (task, "mathqa_gain")))


def _vectors() -> Iterator[Check]:
    for task in ("scitail", "multi30k"):
        sft, ours = on("table1", task, "sft"), on("table1", task, "g_freeze")
        what = f"{TASKS[task]}: cosine over the base's heads, SFT → G-Freeze"
        yield Vectors(what, sft, ours, "cosine_base_heads")
        yield Vectors(f"{TASKS[task]}: heads shared of ten, SFT → G-Freeze", sft, ours, "overlap")


def _from_zero() -> Iterator[Check]:
    copied = on("fig2", "scitail", "g_freeze")
    all_trained, new_trained = (Of("fig7", {"method.train": t, "layers": 18}) for t in ("all", "new"))
    yield Compared("task score, from zero with all trained → from copies", all_trained, copied, rule="better")
    yield Compared(
        "WinoGrande generated, from zero with the new trained → from copies",
        new_trained,
        copied,
        RETENTION,
        "better",
    )

    blocks = on("from_zero", "scitail", "zero_block")
    yield from both("blocks from zero → from copies", blocks, copied, "better")


def _attention() -> Iterator[Check]:
    mlp = on("fig2", "scitail", "g_freeze")
    for grow, name in (("head_dim", "head dimension"), ("heads", "heads")):
        alone, joined = (Of("fig8", {"method.grow": grow, "method.with_mlp": b}) for b in (False, True))
        yield Compared(f"task score, {name} grown → MLP grown", alone, mlp, rule="better")
        yield Compared(f"task score, {name} and MLP grown → MLP alone", joined, mlp)


PAPER = (
    Claim(
        "Growth does not forget",
        "“almost perfectly preserving original domain knowledge” (4.1, Figure 2), read on WinoGrande",
        tuple(_retention("fig2")),
        ("fig2", "fig2_published"),
        tuple(_retention("fig2_published")),
    ),
    Claim(
        "Full fine-tuning collapses",
        "“plummeting to near-zero on tasks with large domain shifts” (4.1, Figures 2a and 2b)",
        tuple(_collapse("fig2")),
        ("fig2", "fig2_published"),
        tuple(_collapse("fig2_published")),
    ),
    Claim(
        "Growth learns the task as well as full fine-tuning",
        "“downstream performance comparable or superior to standard fine-tuning” (4.1, Figure 2)",
        tuple(_parity("fig2")),
        ("fig2", "fig2_published", "rates"),
        tuple(_parity("fig2_published")),
    ),
    Claim(
        "G-Train is better than G-Freeze on MathQA",
        "“On more cognitively demanding tasks like MathQA, the G-Train variant […] outperforms G-Freeze” "
        "(4.1)",
        (
            Compared(
                "task score, G-Freeze → G-Train",
                on("fig2", "mathqa_gain", "g_freeze"),
                on("fig2", "mathqa_gain", "g_train"),
                rule="better",
                guess=GUESS["mathqa_gain"],
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
        tuple(_ranks()),
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
        ("fig7", "from_zero"),
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
