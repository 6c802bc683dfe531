"""``gdo analyze drift``: how far a run has moved from its base, inside and in what it says.

Shapes: L layers, M places in all texts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gdo_cli.commands.analyze.skeleton import Analysis
from gdo_cli.config.build import rebuild
from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.dataset import Row
from gdo_cli.evaluation.divergence import Reference
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.evaluation.run_data import subset
from gdo_cli.experiment.reopen import Opened
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.winogrande import WinoGrande
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.outcomes import Answer, Mean, Outcome, mean
from gdo_cli.support.console import Reporter

TEXT = "perplexity"  # the probe that reads general text
# Texts of each kind whose distributions are kept: eight each, a megabyte apiece with Gemma's vocabulary.
KL_TEXTS = 24
# Places of a kind of text in all: CKA needs more of them than there are dimensions, and each takes
# L·D numbers (46 kB on Gemma 3 270M, 350 kB on 4B) until the tuned model has been asked too.
MOST_PLACES = 2048


@dataclass(frozen=True)
class GivenFormat(WinoGrande):
    """WinoGrande as generated, and as it would be if the model only had to choose.

    ``exact_match``: the right option and a stop, nothing else (format and knowledge). ``choice``: of the
    two options, as answers to the very same prompt, the right one is the likelier: the format is given,
    what is left is knowledge. Chance is 0.5.
    """

    headline: ClassVar[str] = "choice"

    def queries(self, row: Row, shots: list[Row]) -> list[Query]:
        return super().queries(row, shots)[:2]

    def outcomes(self, row: Row, answers: list[Answer]) -> dict[str, Outcome]:
        right, wrong = answers
        return {
            "exact_match": Outcome(float(right.exact)),
            "choice": Outcome(float(right.logprob > wrong.logprob)),
        }


@dataclass(frozen=True)
class Drift(Analysis):
    """How drift is measured."""

    kind: ClassVar = "drift"
    prompts: int = 128  # of the probes, and of the task, on which hidden states are compared
    items: int = 100  # of WinoGrande
    shots: tuple[int, ...] = (0, 5, 20)  # numbers of solved examples in front of each of them

    def configure(self, run: RunResult, config_dir: Path | None) -> RunConfig:
        """The run's probes for their prompts, and WinoGrande once for every number of shots."""
        names = dict.fromkeys([*run.record.config["probe"], "winogrande", TEXT])
        config = rebuild(run, config_dir, [f"probe=[{','.join(names)}]"])
        rows = config.probe["winogrande"].dataset
        formats = {f"winogrande with {n} shots": GivenFormat(rows, self.items, n) for n in self.shots}
        everything = replace(config.evaluation, items=None, final_items=0)
        return replace(config, probe=config.probe | formats, evaluation=everything)

    def measure(self, opened: Opened, run: RunResult, reporter: Reporter) -> dict[str, Any]:
        evaluator = opened.evaluator()
        texts = _texts(evaluator, self.prompts)

        def states(lm: AnswerLM, who: str) -> dict[str, HiddenStates]:
            found = {}
            for kind in ("probes", "task"):
                told = reporter.part_of(f"hidden states of the {who}, {kind}", len(texts[kind]))
                found[kind] = hidden_states(lm, opened.layers, texts[kind], told)
            return found

        base = opened.base()
        before = states(base, "base")
        references = {kind: Reference(base, texts[kind][:KL_TEXTS]) for kind in ("task", "text")}
        answers = {"base": _winogrande(evaluator, base, reporter)}
        del base  # with its copy of the head
        tuned = opened.tuned()
        after = states(tuned, "run")
        hidden = {kind: drift_by_layer(before[kind], after[kind]) for kind in before}
        kl = _divergences(references, tuned)
        answers["run"] = _winogrande(evaluator, tuned, reporter)
        return {"hidden": hidden, "kl": kl, "winogrande": answers}


def _texts(evaluator: Evaluator, most: int) -> dict[str, list[list[int]]]:
    """Tokens by kind of text. A probe item's text is that of its last query: the question with an option,
    the completed sentence, the passage; never the solved examples that others begin with."""
    probes = [
        [item.queries[-1] for item in items]
        for name, items in evaluator.probes.items()
        if not isinstance(evaluator.probe_of[name], GivenFormat) and name != TEXT
    ]
    each = -(-most // len(probes))
    mixed = [query for queries in probes for query in subset(queries, each)]
    kinds = {
        "probes": [q.context + q.continuation for q in mixed],
        "task": [q.context for _, q in evaluator.splits["validation"]],
        "text": [q.context + q.continuation for item in evaluator.probes[TEXT] for q in item.queries],
    }
    # One token has no place but the first, which says nothing.
    return {kind: subset([t for t in texts if len(t) > 1], most) for kind, texts in kinds.items()}


def _divergences(references: dict[str, Reference], tuned: AnswerLM) -> dict[str, dict[str, float]]:
    """KL(base ‖ run) in nats, with standard errors over texts."""
    task, text = (references[kind].divergence(tuned) for kind in ("task", "text"))
    found = {"task_answer": (task, "answer"), "task_prompt": (task, "prompt"), "text": (text, "prompt")}
    return {
        name: {"value": values[f"kl/{key}"], "se": values[f"kl/{key}_se"]}
        for name, (values, key) in found.items()
    }


def _winogrande(evaluator: Evaluator, lm: AnswerLM, reporter: Reporter) -> dict[str, dict[str, float]]:
    """``exact_match`` and ``choice``, with standard errors, by the number of shots."""
    found = {}
    for name, probe in evaluator.probe_of.items():
        if isinstance(probe, GivenFormat):
            metrics = evaluator.evaluate_probe(lm, name, reporter.advance).metrics
            found[str(probe.shots)] = {key.rpartition("/")[2]: value for key, value in metrics.items()}
    return found


# ------------------------------------------------------------------------------------- hidden states


@dataclass(frozen=True)
class HiddenStates:
    """What every layer gives at some places of some texts."""

    states: NDArray[np.float32]  # (L, M, D)
    texts: NDArray[np.intp]  # which text each place is in, (M,)


@torch.no_grad()
def hidden_states(
    lm: AnswerLM,
    layers: Sequence[nn.Module],
    texts: Sequence[list[int]],
    advance: Callable[[int], None] = lambda n: None,
) -> HiddenStates:
    """Return the outputs of the given layers, which may stand anywhere in the model, at places of the texts.

    The first token is left out: it sees nothing but itself, is the same everywhere, and its states are
    so large that they would outweigh all others.
    """
    seen = [torch.empty(0)] * len(layers)  # (B, T, D) each

    def keep(index: int, _: nn.Module, __: Any, output: Any) -> None:
        seen[index] = output[0] if isinstance(output, tuple) else output

    found, owners = [], []
    with ExitStack() as hooks, lm.autocast():
        for index, layer in enumerate(layers):
            hooks.enter_context(layer.register_forward_hook(partial(keep, index)))
        for index, tokens in enumerate(texts):
            chosen = places(len(tokens), max(1, MOST_PLACES // len(texts)))
            lm.hidden(torch.tensor([tokens], device=lm.device), torch.tensor([0], device=lm.device))
            found.append(torch.stack([x[0, chosen].float() for x in seen]).cpu().numpy())
            owners += [index] * len(chosen)
            advance(1)
    return HiddenStates(np.concatenate(found, axis=1), np.array(owners))


def places(length: int, most: int) -> list[int]:
    """At most so many places, spread evenly from the second token to the last one."""
    n = min(most, length - 1)
    return [round(1 + (length - 2) * (i + 1) / n) if n < length - 1 else 1 + i for i in range(n)]


def linear_cka(x_MD: NDArray[np.float32], y_MD: NDArray[np.float32]) -> float:
    """‖YᵀX‖² / (‖XᵀX‖·‖YᵀY‖), Frobenius, of centred columns (Kornblith et al., 2019, equation 3).

    1 for equal states, also after rotation and isotropic scaling. Directions of large variance decide
    it, which in language models are few. NaN where one of them does not vary at all.
    """
    x, y = (a.astype(np.float64) - a.mean(0, dtype=np.float64) for a in (x_MD, y_MD))
    cross, own_x, own_y = (np.linalg.norm(a.T @ b) for a, b in ((y, x), (x, x), (y, y)))
    return float(cross**2 / (own_x * own_y)) if own_x and own_y else float("nan")


def mean_cosine(x_MD: NDArray[np.float32], y_MD: NDArray[np.float32], texts_M: NDArray[np.intp]) -> Mean:
    """Return the mean over places of the cosine of the two states, with the standard error over texts."""
    x, y = x_MD.astype(np.float64), y_MD.astype(np.float64)
    cosines = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    groups = [cosines[texts_M == text] for text in np.unique(texts_M)]
    return mean([Outcome(float(group.mean()), len(group)) for group in groups])


def drift_by_layer(base: HiddenStates, tuned: HiddenStates) -> dict[str, Any]:
    """CKA and mean cosine between two models' states at the same places, for every layer."""
    pairs = list(zip(base.states, tuned.states, strict=True))
    cosines = [mean_cosine(x, y, base.texts) for x, y in pairs]
    return {
        "texts": len(np.unique(base.texts)),
        "places": len(base.texts),
        "cka": [linear_cka(x, y) for x, y in pairs],
        "cosine": [m.value for m in cosines],
        "cosine_se": [m.se for m in cosines],
    }
