"""``gdo analyze drift``: how far a run has moved from its base, inside and in what it says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from gdo_cli.commands.analyze.representations import drift_by_layer, hidden_states
from gdo_cli.commands.analyze.skeleton import analyse_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.dataset import Row
from gdo_cli.evaluation.divergence import Reference
from gdo_cli.evaluation.evaluator import Evaluator
from gdo_cli.evaluation.run_data import subset
from gdo_cli.experiment.reopen import Opened, rebuild
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.tokens import Query
from gdo_cli.probes.winogrande import WinoGrande
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.outcomes import Answer, Outcome
from gdo_cli.support.progress import Reporter

KIND = "drift"
TEXT = "perplexity"  # the probe that reads general text
# Texts of each kind whose distributions are kept: eight each, a megabyte apiece with Gemma's vocabulary.
KL_TEXTS = 24


@dataclass(frozen=True)
class Options:
    """How drift is measured.

    Attributes:
        prompts: prompts of the probes, and of the task, on which hidden states are compared.
        items: items of WinoGrande.
        shots: solved examples in front of each of them, one after the other.
    """

    prompts: int = 128
    items: int = 100
    shots: tuple[int, ...] = (0, 5, 20)


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


def analyse(run: RunResult, options: Options, config_dir: Path | None, force: bool = False) -> dict[str, Any]:
    """Compare a run's model with its base, and keep what is found beside the run.

    Raises:
        UserError: no weights or no data.
    """
    asked = asdict(options) | {"shots": list(options.shots)}
    names = dict.fromkeys([*run.record.config["probe"], "winogrande", TEXT])

    def configure() -> RunConfig:
        return _with_formats(rebuild(run, config_dir, [f"probe=[{','.join(names)}]"]), options)

    return analyse_run(run, KIND, asked, configure, partial(_measure, options), force)


def _measure(options: Options, opened: Opened, reporter: Reporter) -> dict[str, Any]:
    evaluator = opened.evaluator()
    texts = _texts(evaluator, options)
    base = opened.base()
    kept = {kind: _states(opened, base, reporter, "base", kind, texts[kind]) for kind in ("probes", "task")}
    references = {kind: Reference(base, texts[kind][:KL_TEXTS]) for kind in ("task", "text")}
    answers = {"base": _winogrande(evaluator, base, reporter)}
    del base  # with its copy of the head
    tuned = opened.tuned()
    hidden = {
        kind: drift_by_layer(states, _states(opened, tuned, reporter, "run", kind, texts[kind]))
        for kind, states in kept.items()
    }
    kl = _divergences(references, tuned)
    answers["run"] = _winogrande(evaluator, tuned, reporter)
    return {"hidden": hidden, "kl": kl, "winogrande": answers}


def _with_formats(config: RunConfig, options: Options) -> RunConfig:
    """The run's probes for their prompts, and WinoGrande once for every number of shots."""
    plain = config.probe["winogrande"]
    formats = {_part(shots): GivenFormat(plain.dataset, options.items, shots) for shots in options.shots}
    everything = replace(config.evaluation, items=None, final_items=0)
    return replace(config, probe=config.probe | formats, evaluation=everything)


def _part(shots: int) -> str:
    return f"winogrande with {shots} shots"


def _texts(evaluator: Evaluator, options: Options) -> dict[str, list[list[int]]]:
    """Tokens by kind of text. A probe item's text is that of its last query: the question with an option,
    the completed sentence, the passage; never the solved examples that others begin with."""
    probes = [
        [item.queries[-1] for item in items]
        for name, items in evaluator.probes.items()
        if not isinstance(evaluator.probe_of[name], GivenFormat) and name != TEXT
    ]
    each = -(-options.prompts // len(probes))
    mixed = [query for queries in probes for query in subset(queries, each)]
    kinds = {
        "probes": [q.context + q.continuation for q in mixed],
        "task": [q.context for _, q in evaluator.splits["validation"]],
        "text": [q.context + q.continuation for item in evaluator.probes[TEXT] for q in item.queries],
    }
    # One token has no place but the first, which says nothing.
    return {kind: subset([t for t in texts if len(t) > 1], options.prompts) for kind, texts in kinds.items()}


def _states(
    opened: Opened, lm: AnswerLM, reporter: Reporter, who: str, kind: str, texts: list[list[int]]
) -> Any:
    part = f"hidden states of the {who}, {kind}"
    return hidden_states(lm, opened.layers, texts, reporter.part_of(part, len(texts)))


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
