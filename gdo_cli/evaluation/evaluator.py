"""All that is measured of a model during a run: the task, the probes, the distance from the base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gdo_cli.data.dataset import Row
from gdo_cli.evaluation.config import EvaluationConfig
from gdo_cli.evaluation.divergence import Reference, TextReference
from gdo_cli.evaluation.harness import Harness
from gdo_cli.evaluation.run_data import RunData
from gdo_cli.evaluation.untouched import Predictions, Untouched
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.generation import generate
from gdo_cli.lm.scoring import Scored, is_exact, score
from gdo_cli.lm.tokens import Encoded, Encoder, Ends, LazilyEncoded
from gdo_cli.probes.base import Probe
from gdo_cli.probes.lm_eval import LMEval
from gdo_cli.probes.perplexity import Perplexity
from gdo_cli.stats.metrics import Response
from gdo_cli.stats.outcomes import Answer, Outcome, mean
from gdo_cli.support.console import note, warn
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity
from gdo_cli.tasks.base import Example, Task

Advance = Callable[[str, int, int], None]  # what is measured, items done now, items in all


@dataclass
class Evaluation:
    """One evaluation.

    Attributes:
        metrics: ``part/score`` and ``part/score_se``, e.g. ``task/exact_match``.
        predictions: one record per item, for ``predictions.jsonl``.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]] = field(default_factory=list)


class Evaluator:
    """The rows of a run in tokens, and everything that is measured on them.

    Args:
        max_length: longest example in tokens, its end included; longer ones are left out and counted.
    """

    def __init__(
        self,
        task: Task,
        probes: Mapping[str, Probe],
        data: RunData,
        encoder: Encoder,
        config: EvaluationConfig,
        max_length: int,
    ) -> None:
        self.task = task
        self.probe_of = probes
        self.encoder = encoder
        self.config = config
        self.max_length = max_length
        self.provenance = data.provenance
        self.train = self._training(data.train)
        self.replay = encoder.many(data.replay)
        self.shown = data.shots
        self.splits = {
            "validation": self._pairs("validation", data.validation),
            "test": self._pairs("test", data.test),
        }
        self.probes = {
            name: self._probe_queries(probes[name], rows, shots)
            for name, (rows, shots) in data.probes.items()
        }
        self.harnesses = {name: Harness(name, p) for name, p in probes.items() if isinstance(p, LMEval)}
        self.provenance |= {f"probe/{name}": harness.record() for name, harness in self.harnesses.items()}
        answers = [example.answer for pairs in self.splits.values() for example, _ in pairs]
        if answers and (why := task.metric.doubt(answers)):
            warn(why)
        self._reference: Reference | None = None
        self._texts: dict[str, TextReference] = {}
        self.untouched = Untouched(probes, [])

    def _encode(self, examples: list[Example]) -> list[Encoded]:
        return self.encoder.many([e.query() for e in examples])

    def _training(self, examples: list[Example]) -> Sequence[Encoded]:
        """The examples that are short enough, put into tokens when they are drawn."""
        queries = [e.query() for e in examples]
        longest = self.max_length - 1  # the end of sequence comes on top
        # A token is no shorter than a byte, and BOS is one more: most need not be counted, but for chats, to
        # which a template adds.
        bytes_of = [len((q.context + q.continuation).encode()) for q in queries]
        doubtful = [i for i, q in enumerate(queries) if q.turns or bytes_of[i] >= longest]
        counted = self.encoder.many([queries[i] for i in doubtful])
        too_long = {i for i, encoded in zip(doubtful, counted, strict=True) if len(encoded) > longest}
        self.provenance["train_too_long"] = len(too_long)
        if len(too_long) == len(queries) or len(too_long) > 0.05 * len(queries):
            raise UserError(
                f"{self._told(len(too_long), len(queries), 'train')}; raise it (answers are never cut)"
            )
        if too_long:
            warn(f"{self._told(len(too_long), len(queries), 'train')} and are left out")
        return LazilyEncoded(self.encoder, [q for i, q in enumerate(queries) if i not in too_long])

    def _told(self, n: int, total: int, role: str) -> str:
        return f"{n} of {total} {role} examples are longer than train.max_length={self.max_length} tokens"

    def _pairs(self, role: str, examples: list[Example]) -> list[tuple[Example, Encoded]]:
        """The examples that are short enough, without those that are shown in front, and are measured."""
        pairs = list(zip(examples, self._encode(examples), strict=True))
        if unsaid := [e for e, q in pairs if not q.continuation]:
            raise UserError(f"{role}: the model's tokenizer has no token for the answer {unsaid[0].answer!r}")
        unknown = self.encoder.tokenizer.unk_token_id
        if lost := [e for e, q in pairs if unknown in q.continuation]:
            warn(
                f"{len(lost)} of {len(pairs)} {role} answers hold what the model's tokenizer has no token "
                f"for: no answer to them is exact; the first: {lost[0].answer.strip()[:60]!r}"
            )
        pairs = [(e, q) for e, q in pairs if len(q) < self.max_length]
        n, total = len(examples) - len(pairs), len(examples)
        self.provenance |= {f"{role}_too_long": n, f"{role}_items": len(pairs)}
        if n and not pairs:
            raise UserError(f"{self._told(n, total, role)}; raise it (answers are never cut)")
        if n:
            warn(f"{self._told(n, total, role)} and are left out: {len(pairs)} are measured; raise it")
        if not self.shown:
            return pairs
        shown = self.encoder.many([e.query(self.shown) for e, _ in pairs])
        return [(e, q) for (e, _), q in zip(pairs, shown, strict=True)]

    def _probe_queries(self, probe: Probe, rows: list[Row], shots: list[Row]) -> list[_Item]:
        return [_Item(row, [self.encoder(q) for q in probe.queries(row, shots)]) for row in rows]

    # -------------------------------------------------------------------------------- measuring

    def evaluate(
        self,
        lm: AnswerLM,
        role: str = "validation",
        advance: Advance | None = None,
        between: bool = False,
    ) -> Evaluation:
        """Measure everything, on the task's validation or test items.

        Args:
            between: neither before nor after training; probes that are not asked throughout are left out.
        """
        was_training = lm.training
        lm.eval()
        result = self.evaluate_task(lm, role, advance)
        for name in self.probe_of:
            if between and not self.probe_of[name].throughout:
                continue
            part = self.evaluate_probe(lm, name, advance)
            result.metrics |= part.metrics
            result.predictions += part.predictions
        if self._reference is not None:
            result.metrics |= self._reference.divergence(lm)
        lm.train(was_training)
        return result

    def evaluate_task(self, lm: AnswerLM, role: str, advance: Advance | None = None) -> Evaluation:
        pairs = self.splits[role]
        if not pairs:
            return Evaluation({})
        lm.eval()
        ends = self.encoder.ends(self.task.multiline)
        answers = self._answers(lm, [q for _, q in pairs], ends, "task", advance)
        loss = mean([Outcome(-a.logprob / a.n_tokens, a.n_tokens) for a in answers])
        metrics = {"task/loss": loss.value, "task/loss_se": loss.se}
        metric = self.task.metric
        texts = self._generated(lm, pairs, ends, advance) if metric.generates else [a.text for a in answers]
        responses = [
            Response(text.strip(), example.answer.strip(), answer.exact)
            for (example, _), answer, text in zip(pairs, answers, texts, strict=True)
        ]
        found = metric.score(responses)
        self.provenance |= found.provenance
        metrics[metric.key] = found.value
        if found.se is not None:
            metrics[f"{metric.key}_se"] = found.se
        predictions = [
            {"part": f"task/{role}", "item": i, "answer": r.answer, "predicted": r.predicted} | kept
            for i, (r, kept) in enumerate(zip(responses, found.kept, strict=True))
        ]
        return Evaluation(metrics, predictions)

    def _generated(
        self,
        lm: AnswerLM,
        pairs: list[tuple[Example, Encoded]],
        ends: Ends,
        advance: Advance | None,
    ) -> list[str]:
        return generate(
            lm,
            self.encoder,
            [q.context for _, q in pairs],
            ends,
            max_new_tokens=int(getattr(self.task, "max_new_tokens", 96)),
            token_budget=self.config.token_budget,
            advance=_told(advance, "generation", len(pairs)),
        )

    def evaluate_probe(self, lm: AnswerLM, name: str, advance: Advance | None = None) -> Evaluation:
        probe = self.probe_of[name]
        if name in self.harnesses:
            return _summed_up(name, self.harnesses[name].measure(lm, self.encoder.tokenizer), {})
        items = self.probes[name]
        queries = [q for item in items for q in item.queries]
        answers = iter(self._answers(lm, queries, self.encoder.answer_ends, name, advance))
        given = [[next(answers) for _ in item.queries] for item in items]
        words = self._own_words(lm, name, given, advance)
        divergences = self._texts[name].divergence(lm) if name in self._texts else None
        all_found = []
        for index, item in enumerate(items):
            found = probe.outcomes(item.row, given[index])
            if index in words:
                found |= probe.judge_words(item.row, words[index])
            if divergences is not None:
                found["kl"] = divergences[index]
            all_found.append(found)
        return _summed_up(name, all_found, words)

    def _own_words(
        self, lm: AnswerLM, name: str, given: list[list[Answer]], advance: Advance | None
    ) -> dict[int, str]:
        """What the model says itself to items of which the probe wants to keep that, by their places."""
        probe = self.probe_of[name]
        asked = [place for place, answers in enumerate(given) if probe.wants_words(answers)]
        if not asked:
            return {}
        found = generate(
            lm,
            self.encoder,
            [self.probes[name][place].queries[0].context for place in asked],
            self.encoder.answer_ends,
            max_new_tokens=int(getattr(probe, "words", 0)),
            token_budget=self.config.token_budget,
            advance=_told(advance, f"{name}, its words", len(asked)),
        )
        return dict(zip(asked, found, strict=True))

    def _answers(
        self,
        lm: AnswerLM,
        queries: list[Encoded],
        ends: Ends,
        part: str,
        advance: Advance | None,
    ) -> list[Answer]:
        budget = self.config.token_budget
        scored = score(lm, queries, budget, _told(advance, part, len(queries)))
        return [self._answer(q, s, ends) for q, s in zip(queries, scored, strict=True)]

    def _answer(self, query: Encoded, scored: Scored, ends: Ends) -> Answer:
        n = len(query.continuation)
        return Answer(
            logprob=scored.logprob,
            n_tokens=n,
            exact=is_exact(query, scored, ends),
            greedy=scored.argmax[:n] == query.continuation,
            text=ends.parse(scored.argmax),
        )

    def remember_base(self, lm: AnswerLM) -> None:
        """Keep the untouched model's predictions, to measure the divergence from them later."""
        prompts = [q.context for _, q in self.splits["validation"][: self.config.kl_prompts]]
        if prompts:
            self._reference = Reference(lm, prompts)
        for name, probe in self.probe_of.items():
            if isinstance(probe, Perplexity) and probe.kl:
                self._texts[name] = TextReference(lm, [q for item in self.probes[name] for q in item.queries])

    def remember_items(self, predictions: Predictions) -> None:
        """Keep what the untouched model got of each item of the probes, to tell later what has been kept."""
        self.untouched = Untouched(self.probe_of, predictions)
        if self.untouched.counted:
            self.provenance["retention"] = self.untouched.record()
            note(str(self.untouched))

    def fingerprint(self) -> str:
        """Return the checksum of every token that an evaluation on validation data asks and scores."""
        asked: list[Any] = [[(q.context, q.continuation) for _, q in self.splits["validation"]]]
        for name, items in self.probes.items():
            asked.append([name, [[(q.context, q.continuation) for q in i.queries] for i in items]])
            asked.append([dict(item.row) for item in items])
            asked.append(identity(self.probe_of[name]))
        task = self.task
        asked.append(
            [
                task.metric.name,
                dict(task.metric.settings),
                task.multiline,
                getattr(task, "max_new_tokens", None),
            ]
        )
        asked.append(self.config.kl_prompts)
        asked += [harness.record() for harness in self.harnesses.values()]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()

    def check_prompts(self, n: int = 8) -> list[Encoded]:
        """Return a few real prompts with their answers, for the function-preservation check."""
        return [q for _, q in self.splits["validation"][:n]]


def _summed_up(name: str, items: list[dict[str, Outcome]], words: Mapping[int, str]) -> Evaluation:
    """What came of each item of a probe, and their means.

    Args:
        words: the model's own, where they are kept.
    """
    outcomes: dict[str, list[Outcome]] = {}
    predictions = []
    for index, found in enumerate(items):
        for key, outcome in found.items():
            outcomes.setdefault(key, []).append(outcome)
        weights = {f"{key}_weight": o.weight for key, o in found.items() if o.weight != 1}
        scores: dict[str, Any] = {key: round(o.value, 6) for key, o in found.items()}
        said = {"answered": words[index]} if index in words else {}
        predictions.append({"part": name, "item": index} | scores | weights | said)
    metrics = {}
    for key, values in outcomes.items():
        if any(outcome.weight for outcome in values):  # else there is nothing to take the mean of
            average = mean(values)
            metrics[f"{name}/{key}"], metrics[f"{name}/{key}_se"] = average.value, average.se
    return Evaluation(metrics, predictions)


@dataclass
class _Item:
    row: Row
    queries: list[Encoded]


def _told(advance: Advance | None, part: str, total: int) -> Callable[[int], None]:
    return (lambda n: advance(part, n, total)) if advance else (lambda n: None)
