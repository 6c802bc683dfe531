"""What the paper leaves open, each question with what it is answered by.

To add one: an entry here. Rules and margins are those of results/PROTOCOL.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gdo_cli.runs.record import RETENTION
from gdo_cli.stats.metrics import measure_named
from study.checks import Check, Compared, Spread
from study.claims import TASKS, Claim, both, on
from study.evidence import SCORE, Of

BESIDE = {
    "arc_easy/likelihood": "ARC-Easy",
    "lambada/last_word": "LAMBADA, last word",
    "perplexity/loss": "WikiText, nats a token",
}


def _growth_or_training() -> Iterator[Check]:
    for before, after, names in (
        ("mlp_only", "g_freeze", "MLPs in place → G-Freeze"),
        ("sft", "g_freeze", "SFT → G-Freeze"),
        ("sft", "mlp_only", "SFT → MLPs in place"),
    ):
        sides = [Of("frontier", {"method": method}) for method in (before, after)]
        yield from _learnt_and_kept(names, *sides)
        yield from _kept_beside(names, *sides)


def _learnt_and_kept(what: str, first: Of, second: Of) -> Iterator[Check]:
    """Is the second as good at the task, and does it keep more?"""
    yield Compared(f"task score, {what}", first, second)
    yield Compared(f"WinoGrande generated, {what}", first, second, RETENTION, "better")


def _kept_beside(what: str, first: Of, second: Of) -> Iterator[Check]:
    """The same of the other probes; a loss, which is better when lower, has no verdict."""
    for measure, name in BESIDE.items():
        rule = "better" if measure_named(measure).higher_is_better else "told"
        yield Compared(f"{name}, {what}", first, second, measure, rule)


def _low_rate() -> Iterator[Check]:
    grown, untouched = Of("seeds", {"method": "g_freeze"}), on("fig2", "scitail", "frozen")
    for experiment, at in (("low_rate", "5e-6"), ("low_rate_longer", "5e-6 for 240 steps")):
        low, low_grown = (Of(experiment, {"method": method}) for method in ("sft", "g_freeze"))
        names = f"G-Freeze at its own rate → SFT at {at}"
        yield from _learnt_and_kept(names, grown, low)
        yield from _kept_beside(names, grown, low)
        names = f"SFT → G-Freeze, both at {at}"
        yield from _learnt_and_kept(names, low, low_grown)
        yield from _kept_beside(names, low, low_grown)
        yield Compared(f"WinoGrande generated, untouched → SFT at {at}", untouched, low, RETENTION)


def _answer_form() -> Iterator[Check]:
    for task in ("qasc", "mathqa_gain"):
        letter, whole = (
            Of("answer_form", {"task": task, "task.answer": form}) for form in ("letter", "text")
        )
        yield from both(f"{TASKS[task]}: letter → text", letter, whole, "told")
    short, long = (on(experiment, "mathqa_gain", "sft") for experiment in ("fig2", "math_longer"))
    yield from both(f"{TASKS['mathqa_gain']}: 200 steps → 600", short, long, "told")


def _layer_choice() -> Iterator[Check]:
    chosen, any_six, worst = (Of("layer_choice", {"layer_rule": r}) for r in ("pilot", "random", "worst"))
    yield from both("any six layers → the six that move most", any_six, chosen, "better")
    yield from both("the six that move least → the six that move most", worst, chosen, "better")


def _few_layers() -> Iterator[Check]:
    for rate in (2e-5, 5e-5):
        six = {
            m: Of("few_layers", {"method": m, "layers": 6, "train.lr": rate})
            for m in ("mlp_only", "g_freeze")
        }
        for method, name in (("mlp_only", "MLPs in place"), ("g_freeze", "G-Freeze")):
            every = Of("frontier", {"method": method, "train.lr": rate})
            yield from _learnt_and_kept(f"{name}, all layers → six, at {rate:g}", every, six[method])
        what = f"six layers in place → grown, at {rate:g}"
        yield from _learnt_and_kept(what, six["mlp_only"], six["g_freeze"])


def _interpolated() -> Iterator[Check]:
    grown = on("fig2", "scitail", "g_freeze")
    for run, name in (("sft-37768d35/seed0", "SFT"), ("mlp_only-c5381792/seed0", "MLPs in place")):
        for alpha in (0.25, 0.5, 0.75):
            settings = {"method": "wise_ft", "method.run": run, "method.alpha": alpha}
            pulled_back = Of("interpolation", settings)
            yield from both(f"G-Freeze → {name}, α = {alpha:g}", grown, pulled_back, "told")


def _averaged() -> Iterator[Check]:
    grown, averaged = on("fig2", "scitail", "g_freeze"), on("interpolation", "scitail", "averaged")
    for measure, name in ((SCORE, "task score"), (RETENTION, "WinoGrande generated")):
        yield Compared(f"{name}, grown → averaged", grown, averaged, measure, one_training=True)


def _shares() -> Iterator[Check]:
    half = on("output_mix", "scitail", "g_freeze")
    for share, name in ((0.25, "¼"), (0.75, "¾")):
        mixed = Of("output_mix", {"method": "output_mix", "method.share": share})
        yield from both(f"λ = ½ (G-Freeze) → {name}", half, mixed, "told")


def _second_family() -> Iterator[Check]:
    untouched, sft, grown = (
        on("second_family", "scitail", method) for method in ("frozen", "sft", "g_freeze")
    )
    yield Compared("task score, SFT → G-Freeze", sft, grown)
    for run, name in ((sft, "SFT"), (grown, "G-Freeze")):
        yield Compared(f"WinoGrande generated, untouched → {name}", untouched, run, RETENTION)


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
    sft, untouched = on("fig2", "scitail", "sft"), on("fig2", "scitail", "frozen")
    for name, settings in changed.items():
        run = Of("published_rate", settings)
        yield Compared(f"{name}: task score, SFT at its own rate → G-Freeze at 1e-3", sft, run)
        yield Compared(f"{name}: WinoGrande generated, untouched → G-Freeze", untouched, run, RETENTION)


def _g_train() -> Iterator[Check]:
    pairs = []
    for rate in (5e-6, 2e-5, 5e-5, 2e-4, 1e-3):
        in_place, grown = (Of("frontier", {"method": m, "train.lr": rate}) for m in ("up_only", "g_train"))
        pairs.append((in_place, grown))
        yield from both(f"gate and up in place → G-Train, at {rate:g}", in_place, grown, "told")
    for measure, name in ((SCORE, "task score"), (RETENTION, "WinoGrande generated")):
        yield Spread(f"{name}, standard deviation of a run by these pairs", tuple(pairs), measure)


def _format() -> Iterator[Check]:
    measures = {
        RETENTION: "WinoGrande, generated",
        "winogrande/likelihood": "WinoGrande, likelihood",
        "arc_easy/likelihood": "ARC-Easy, likelihood",
        "lambada/last_word": "LAMBADA, last word",
    }
    for method, label in (("sft", "SFT"), ("g_freeze", "G-Freeze")):
        for measure, name in measures.items():
            untouched, trained = on("fig2", "scitail", "frozen"), on("fig2", "scitail", method)
            yield Compared(f"{name}, untouched → {label}", untouched, trained, measure)


QUESTIONS = (
    Claim(
        "Which answers can be learnt?",
        "The paper scores QASC and MathQA by exact match and does not say of what: the letter of the right "
        "option, or its text. Full fine-tuning, 200 steps; any option at random gets 0.125 of QASC "
        "and 0.2 of MathQA, that in the commonest place a little more. MathQA's text is tried at more than "
        "one rate, by G-Train too, and over 600 steps.",
        tuple(_answer_form()),
        ("answer_form", "math_rates", "math_longer"),
    ),
    Claim(
        "Does growth add anything to training the MLPs in place?",
        "`mlp_only` trains the same matrices without growing them. Each at that of its finished rates which "
        "has the best score on validation items (`frontier`).",
        tuple(_growth_or_training()),
        ("frontier", "seeds"),
    ),
    Claim(
        "Is a lower rate enough?",
        "Full fine-tuning on SciTail at a quarter of its own rate, for as many steps and for twice as many, "
        "beside G-Freeze at its own rate and at that.",
        tuple(_low_rate()),
        ("low_rate", "low_rate_longer"),
    ),
    Claim(
        "Does anything make the published rate work?",
        "The paper trains at 1e-3 and leaves batch size, schedule, weight decay, clipping and loss unsaid. "
        "One of them changed at a time, G-Freeze on SciTail:",
        tuple(_published_rate()),
        ("published_rate",),
    ),
    Claim(
        "Is G-Train anything but tuning gate and up?",
        "But for Adam's ε it is the same training in exact arithmetic, so it folds back to the original size "
        "(tests/test_equivalences.py). In bf16 the two part by rounding. So what differs here, rate by rate, "
        "is what rounding alone makes of one seed: the least by which two single runs differ.",
        tuple(_g_train()),
        ("rates",),
    ),
    Claim(
        "Is knowledge lost, or format?",
        "A generated answer needs the format; the likelihood of given options does not. Always naming the "
        "same of WinoGrande's two options would be right about half of the time. On SciTail:",
        tuple(_format()),
        ("drift",),
    ),
    Claim(
        "Does it matter which layers grow?",
        "Six of 18, on SciTail: those that moved most in the pilot run (the paper's rule), any, and those "
        "that moved least.",
        tuple(_layer_choice()),
        ("layer_choice",),
    ),
    Claim(
        "Do few layers forget less, and is that growth?",
        "The six of 18 that moved most in the pilot run, on SciTail: grown (G-Freeze), and in place. Beside "
        "each, all layers at the same rate.",
        tuple(_few_layers()),
        ("few_layers",),
    ),
    Claim(
        "Would a way back do as well?",
        "WiSE-FT costs no training: the weights between the base (α = 0) and a finished run (1).",
        tuple(_interpolated()),
        ("interpolation",),
    ),
    Claim(
        "Does the result need the larger model?",
        "Averaging the weights of the old and the new MLP brings G-Freeze back to the original size, to the "
        "first order of the change.",
        tuple(_averaged()),
    ),
    Claim(
        "Is one half the share to take?",
        "(1-λ) of the frozen MLP and λ of the trained copy; copying and halving makes λ = ½.",
        tuple(_shares()),
        ("output_mix",),
    ),
    Claim(
        "Does another family behave alike?",
        "SmolLM2 135M Instruct (Llama architecture), SciTail, at 2e-5.",
        tuple(_second_family()),
        ("second_family",),
    ),
    Claim("What does it cost?", "Score and retention against parameters, time and memory.", (), ("cost",)),
)
