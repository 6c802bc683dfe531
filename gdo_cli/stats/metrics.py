"""What a task's answers are scored by. **To add a metric, this file is all there is to touch**: give it an
entry in ``METRICS``; ``task.score``, runs, ``gdo ls``, ``gdo compare`` and the figures ask there.

A score of each item is an :class:`ItemMetric` with a function; one of the whole corpus overrides ``score``,
``interval``, ``difference`` and ``paired``, as :class:`SacreMetric` does. Names of metrics are keys in the
records of runs, and never change.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, ClassVar

from gdo_cli.stats.outcomes import Interval, Outcome, Paired, mean
from gdo_cli.stats.wording import SMOOTHING, TOKENIZERS, doubt, require_tokenizer
from gdo_cli.support.errors import UserError, require_one_of

# Neither SciPy nor sacrebleu is imported before it is needed: every command comes past this file.

Values = Sequence[Any]  # of the items, what their predictions hold: numbers, or texts for a corpus's score
Weights = Sequence[float]
Texts = Sequence[str]
BOOTSTRAP = "bootstrap, paired"
INDEX = "retention/index"  # see gdo_cli.stats.retention
LEAST = 2  # probes that it is a mean over
DISTANCE = "update/distance"  # how far the trained matrices have moved, by their own norm
SCORING: dict[str, Any] = {"tokenize": "13a", "lowercase": False, "smooth_method": "exp"}  # sacrebleu's own
RESAMPLES = 1000  # sacrebleu's own number
LOWER_IS_BETTER = ("loss", "/kl", "kl/answer", "kl/prompt")  # ends of such measures, where no metric says it


@dataclass(frozen=True)
class Response:
    """What a model made of an item of the task.

    Attributes:
        predicted: the model's text, generated if the metric asks for that, without space around it.
        answer: the right text, without space around it.
        exact: whether greedy decoding gives exactly the answer and then stops.
    """

    predicted: str
    answer: str
    exact: bool


@dataclass(frozen=True)
class Score:
    """What a metric makes of all responses.

    Attributes:
        se: standard error over items; None for a score of the whole corpus.
        kept: what each item's prediction holds beside its texts.
        provenance: how it was computed, for the record of the run.
    """

    value: float
    se: float | None
    kept: list[dict[str, Any]]
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of each item, the score of a task or of a probe: which way is better, how sure it is.

    Attributes:
        field: where an item's prediction holds what is judged.
        digits: behind the point, where runs are compared.
    """

    name: str
    field: str
    higher_is_better: bool = True
    digits: int = 3
    is_corpus: ClassVar[bool] = False

    def interval(self, values: Values, weights: Weights, answers: Texts) -> Interval:
        """Return the score with its interval over items: Wilson's for right or wrong, else a bootstrap's.

        Args:
            weights: e.g. tokens.
            answers: the right texts, of the task's items only.
        """
        from gdo_cli.stats import intervals

        return intervals.accuracy(values) if {*values} <= {0, 1} else intervals.average(values, weights)

    def difference(self, first: Values, second: Values, weights: Weights, answers: Texts) -> Interval:
        """Return second minus first on the same items, with its bootstrap interval."""
        from gdo_cli.stats import intervals

        return intervals.average([b - a for a, b in zip(first, second, strict=True)], weights)

    def paired(self, first: Values, second: Values, weights: Weights, answers: Texts) -> Paired:
        """Return the test of no difference: McNemar's for right or wrong, else a permutation's."""
        from gdo_cli.stats import intervals

        if {*first, *second} <= {0, 1}:
            return intervals.mcnemar(first, second)
        return intervals.permutation(first, second, weights)


# --------------------------------------------------------------------------------------- kinds of metric


@dataclass(frozen=True, kw_only=True)
class Metric(Measure):
    """A task's score.

    Attributes:
        title: its name in figures.
        generates: whether it scores text that the model writes on its own. If not, ``predicted`` is what the
            model would put in the answer's places, given the right tokens before; that costs no generation.
        options: which of ``SCORING`` it has.
        settings: those of them that are set otherwise.
        best: what answers get that are right throughout.
    """

    title: str
    generates: bool = True
    options: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    best: ClassVar[float] = 1.0

    @property
    def key(self) -> str:
        """Its name among the measures of a run."""
        return f"task/{self.name}"

    def score(self, responses: Sequence[Response]) -> Score:
        """Return the score of a model's responses, one or more."""
        raise NotImplementedError

    def words(self, text: str) -> list[str]:
        """Return what it counts as words; none if it counts something else."""
        return []

    def doubt(self, references: Texts) -> str | None:
        """Return why the score cannot be right for these references, if it cannot."""
        found = doubt(self.words, references)
        mend = "task.score=chrf"
        if "tokenize" in self.options:
            mend = "task.tokenize=char (or zh for Chinese, ja-mecab for Japanese)"
        if found:
            return f"{self.key} takes whole clauses for words: {found}; {mend} does not"
        own = (
            self.score([Response(text, text, True) for text in references]).value if references else self.best
        )
        if own < 0.999 * self.best:
            return (
                f"{self.key} cannot be more than {own:.3g} of {self.best:g}, which the right answers get "
                "themselves: some have too few words for it; task.score=exact_match or chrf has no such limit"
            )
        return None

    def with_settings(self, given: Mapping[str, Any]) -> Metric:
        """Return the metric as a task sets it, of whose settings others than ``SCORING`` are not read.

        Raises:
            UserError: a setting that it has not, or a tokenizer that cannot be had.
        """
        settings = {key: given[key] for key in SCORING if given.get(key, SCORING[key]) != SCORING[key]}
        for key, value in settings.items():
            if key not in self.options:
                others = " or ".join(metric.name for metric in METRICS.values() if key in metric.options)
                raise UserError(f"task.{key}={value}: {self.name} has no such setting, {others} has")
        if not settings:
            return self
        require_one_of("task.smooth_method", settings.get("smooth_method", "exp"), SMOOTHING)
        if "tokenize" in settings:
            require_one_of("task.tokenize", settings["tokenize"], TOKENIZERS)
            require_tokenizer(settings["tokenize"])
        return replace(self, settings=settings)


@dataclass(frozen=True, kw_only=True)
class ItemMetric(Metric):
    """The mean of what each item gets.

    Attributes:
        of: True or False, or a number, of one response.
        split: a text into what is counted as its words.
    """

    of: Callable[[Response], float]
    split: Callable[[str], list[str]] = field(default=lambda text: [])

    def words(self, text: str) -> list[str]:
        return self.split(text)

    def score(self, responses: Sequence[Response]) -> Score:
        values = [self.of(response) for response in responses]
        found = mean([Outcome(value) for value in values])
        kept = [{self.field: value if isinstance(value, bool) else round(value, 6)} for value in values]
        return Score(found.value, found.se, kept)


@dataclass(frozen=True, kw_only=True)
class SacreMetric(Metric):
    """A metric of sacrebleu's over the whole corpus, by its bootstrap (Koehn, 2004).

    Attributes:
        scorer: the name of its class there.
    """

    scorer: str
    field: str = "predicted"
    digits: int = 1
    is_corpus: ClassVar[bool] = True
    best: ClassVar[float] = 100.0

    def _scorer(self) -> Any:
        import sacrebleu

        return getattr(sacrebleu, self.scorer)(**self.settings)

    def words(self, text: str) -> list[str]:
        if "tokenize" not in self.options:
            return []
        (tokenize,) = _undocumented(self._scorer(), "tokenizer")
        return str(tokenize(text)).split()

    def score(self, responses: Sequence[Response]) -> Score:
        scorer = self._scorer()
        found = scorer.corpus_score([r.predicted for r in responses], [[r.answer for r in responses]])
        signature = {f"{self.name}_signature": str(scorer.get_signature())}
        return Score(float(found.score), None, [{} for _ in responses], signature)

    def interval(self, values: Values, weights: Weights, answers: Texts) -> Interval:
        """Return the score with sacrebleu's bootstrap interval."""
        from gdo_cli.stats.intervals import percentiles

        try:
            found = self._scorer().corpus_score(list(values), [list(answers)], n_bootstrap=RESAMPLES)
        except TypeError:  # sacrebleu 2.6 takes no mean of resampled chrFs where one is 0.0, of another type
            return percentiles(self._on_items(values, answers), len(answers), RESAMPLES)
        centre, half = _undocumented(found, "_mean", "_ci")
        return Interval(float(found.score), float(centre - half), float(centre + half))

    def difference(self, first: Values, second: Values, weights: Weights, answers: Texts) -> Interval:
        """Return the second system's score minus the first's, with percentiles of its paired bootstrap."""
        from gdo_cli.stats.intervals import percentiles

        before, after = (self._on_items(texts, answers) for texts in (first, second))
        return percentiles(lambda items: after(items) - before(items), len(answers), RESAMPLES)

    def _on_items(self, texts: Values, answers: Texts) -> Callable[[Sequence[int]], float]:
        """The score of the items at given places, from what is counted of each once."""
        count, score = _undocumented(self._scorer(), "_extract_corpus_statistics", "_aggregate_and_compute")
        counted = count(list(texts), [list(answers)])
        return lambda items: float(score([counted[i] for i in items]).score)

    def paired(self, first: Values, second: Values, weights: Weights, answers: Texts) -> Paired:
        """Return sacrebleu's paired bootstrap of two systems on the same answers.

        It gives the smallest p-value there is where nothing varies between resamples: to a system against
        itself, to scores that are equal on every item, to a single item. Here that is p = 1. Nor can n
        items, each of which may speak for either, say more than p = 2 / 2ⁿ (the sign test's least).
        """
        score, other = (self._on_items(texts, answers) for texts in (first, second))
        items = range(len(answers))
        before, after = score(items), other(items)
        if len(items) == 1 or (before == after and all(score([i]) == other([i]) for i in items)):
            return Paired(after - before, 1.0, BOOTSTRAP)
        from sacrebleu.significance import PairedTest

        systems = [("first", list(first)), ("second", list(second))]
        test = PairedTest(systems, {self.scorer: self._scorer()}, [list(answers)], test_type="bs")
        _, scores = test()
        # Named by the score, with its settings (chrF2), beside the names of the systems.
        before, after = next(found for name, found in scores.items() if name != "System")
        p = max(float(after.p_value), 2.0 ** (1 - len(items)))
        return Paired(float(after.score - before.score), p, BOOTSTRAP)


def _undocumented(owner: Any, *names: str) -> list[Any]:
    """What a metric of sacrebleu or its score holds under these names, which are no public interface.

    Raises:
        UserError: it holds them no longer.
    """
    if missing := [name for name in names if not hasattr(owner, name)]:
        raise UserError(
            f"sacrebleu {version('sacrebleu')} has no {type(owner).__name__}.{missing[0]}, which intervals "
            "of a corpus's score need; 2.5 and 2.6 have it: pip install 'sacrebleu>=2.5,<2.7'"
        )
    return [getattr(owner, name) for name in names]


# ------------------------------------------------------------------------------------------ the metrics


def token_f1(predicted: str, answer: str) -> float:
    """Return the F1 of the words that two texts share, as SQuAD 1.1's evaluation counts them.

    Words are counted in lower case, without punctuation and articles. A text without any word gets 0,
    against another such text too, as there.
    """
    ours, theirs = _words(predicted), _words(answer)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    # Punctuation goes before articles: "a." is one, and "the-cat" becomes a word of its own.
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


EXACT_MATCH = ItemMetric(
    name="exact_match", title="Exact match", field="correct", generates=False, of=lambda r: r.exact
)
BLEU = SacreMetric(name="bleu", title="SacreBLEU", scorer="BLEU", options=tuple(SCORING))
TOKEN_F1 = ItemMetric(
    name="f1", title="Token F1", field="f1", of=lambda r: token_f1(r.predicted, r.answer), split=_words
)
CHRF = SacreMetric(name="chrf", title="chrF", scorer="CHRF", options=("lowercase",))

METRICS: dict[str, Metric] = {metric.name: metric for metric in (EXACT_MATCH, BLEU, TOKEN_F1, CHRF)}


def task_scores() -> list[str]:
    """Return the keys of all metrics among the measures of a run."""
    return [metric.key for metric in METRICS.values()]


def measure_named(key: str) -> Measure:
    """Return what is known of a measure by its key (``task/bleu``, ``winogrande/likelihood``)."""
    part, _, name = key.rpartition("/")
    if part == "task" and name in METRICS:
        return METRICS[name]
    return Measure(name=name, field=name, higher_is_better=not key.endswith(LOWER_IS_BETTER))
