"""The report as Markdown: claim by claim the paper's statement, what was measured, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdo_cli.config.build import load_experiment
from gdo_cli.figures.experiments import read_spec
from gdo_cli.figures.groups import sources
from gdo_cli.runs.find import by_id, find_runs
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.support.markdown import table
from study.checks import (
    NOT_LEARNT,
    NOT_SUPPORTED,
    OPEN,
    SEEDS_OPEN,
    SUPPORTED,
    UNMEASURED,
    Check,
    Row,
    overall,
)
from study.claims import PAPER, TASKS, Claim
from study.evidence import SCORE, Evidence, measure_of
from study.questions import QUESTIONS

HEADING = ("comparison", "before the arrow", "after it", "difference [95 %]", "over", "verdict")
WHY = {
    SUPPORTED: "every comparison that was made is on the claim's side of its margin, with its whole interval",
    NOT_SUPPORTED: "at least one comparison lies on the other side of its margin, with its whole interval",
    OPEN: "at least one interval lies across its margin, or seeds may turn it around: more items or seeds "
    "would decide",
    NOT_LEARNT: "neither side learnt the task, so there is nothing to compare",
    UNMEASURED: "no run for it yet",
}


@dataclass(frozen=True)
class Judged:
    """A claim with the rows of its checks, those at the published rate apart."""

    claim: Claim
    own: list[Row]
    published: list[Row]

    @property
    def rows(self) -> list[Row]:
        return self.own + self.published

    @property
    def verdict(self) -> str:
        """Of the comparisons made; none for a question, which only its numbers answer."""
        return overall(row.verdict for row in self.rows)

    @property
    def made(self) -> list[Row]:
        """The comparisons that were made."""
        return [row for row in self.rows if row.verdict != UNMEASURED]

    @property
    def shown(self) -> str:
        """The verdict, and whether more comparisons may change it."""
        partly = 0 < len(self.made) < len(self.rows)
        return f"{self.verdict} so far" if partly else self.verdict


def judge(claims: Iterable[Claim], evidence: Evidence) -> list[Judged]:
    def rows(checks: Iterable[Check]) -> list[Row]:
        return [row for check in checks for row in check.rows(evidence)]

    return [Judged(claim, rows(claim.checks), rows(claim.published)) for claim in claims]


def markdown(evidence: Evidence) -> str:
    """The whole page."""
    claims, questions = judge(PAPER, evidence), judge(QUESTIONS, evidence)
    figures = Figures(evidence.results / "figures")
    parts = [
        "# What holds at 270M, measured",
        _introduction(find_runs(evidence.results)),
        "## The paper's claims",
        table(
            ("claim", "verdict", "at the published rate alone", "comparisons made"),
            [
                (f"[{j.claim.title}](#{anchor(j.claim.title)})", f"**{j.shown}**", _published(j), _made(j))
                for j in claims
            ],
        ),
        *other_seeds(evidence),
        *(_section(j, figures, paper=True) for j in claims),
        "## What the paper does not say",
        *(_section(j, figures, paper=False) for j in questions),
        "## What is missing",
        _missing(evidence, [*claims, *questions]),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(runs: Sequence[RunResult]) -> str:
    return (
        f"Written by `make report` from the run folders alone: {sources(runs) if runs else 'none yet'}. How "
        "runs were made, and the rules by which claims are judged, were written down before, with what has "
        "changed since: [PROTOCOL.md](PROTOCOL.md). The paper's models are Gemma 3 1B and 4B, so a claim "
        "that fails here may hold there. Scores are of test sets; each method is shown at the learning rate "
        "of its experiment or, where that has several, at the one whose runs there have the best score on "
        "validation items, mean of the last three evaluations."
    )


def other_seeds(evidence: Evidence) -> list[str]:
    """How far to trust a comparison of single runs; nothing before a configuration has several seeds."""
    runs = evidence.experiment("seeds")[0]
    several = [seeds for seeds in by_id(runs).values() if len(seeds) > 1]
    if not several:
        return []
    score, kept = (evidence.spread(measure_of(runs[0], measure)) for measure in (SCORE, RETENTION))
    if not (score and kept):
        return []
    return [
        "A comparison over items has one run on each side, and its interval says nothing of other seeds. "
        f"From seed to seed, on {TASKS[runs[0].name['task']]} and pooled over the {len(several)} methods of "
        f"`seeds`, a run's standard deviation is {score.deviation:.3f} in the task score and "
        f"{kept.deviation:.3f} in WinoGrande's generated answers. By that, two runs of one method lie "
        f"{score.apart():.3f} or more apart in the first, and {kept.apart():.3f} in the second, one time in "
        f"twenty. Where an interval over items would decide but the difference is no farther than that from "
        f"its margin, the verdict is “{SEEDS_OPEN}”. It is taken for all tasks, rates and models, though "
        "measured on one; BLEU, ranks and function vectors have no such yardstick." + _elsewhere(evidence)
    ]


def _elsewhere(evidence: Evidence) -> str:
    """How far seeds lie apart at the other rates and lengths at which there are several."""
    told = ""
    for experiment in ("low_rate", "low_rate_longer"):
        runs = evidence.experiment(experiment)[0]
        measures = (runs[0].task_score, RETENTION) if runs else ()
        score, kept = [evidence.spread(measure, experiment) for measure in measures] or (None, None)
        if score and kept:
            told += f" In `{experiment}` the two are {score.deviation:.3f} and {kept.deviation:.3f}."
    return told


def _published(judged: Judged) -> str:
    return overall(row.verdict for row in judged.published) if judged.published else "–"


def _made(judged: Judged) -> str:
    return f"{len(judged.made)} of {len(judged.rows)}"


def anchor(title: str) -> str:
    """As GitHub makes it."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _section(judged: Judged, figures: Figures, paper: bool) -> str:
    claim = judged.claim
    parts = [f"### {claim.title}", f"> {claim.statement}" if paper else claim.statement]
    if paper:
        alone = f" At the published rate alone: **{_published(judged)}**." if judged.published else ""
        parts.append(f"**{judged.shown[0].upper()}{judged.shown[1:]}**: {WHY[judged.verdict]}.{alone}")
    rows = judged.made
    if rows:
        cells = [(r.what, r.first, r.second, r.difference, r.over, r.verdict or "–") for r in rows]
        parts.append(table(HEADING, cells))
    elif not paper and claim.checks:
        parts.append(f"{WHY[UNMEASURED][0].upper()}{WHY[UNMEASURED][1:]}.")
    if rows or not claim.checks:
        parts += [text for name in claim.figures for text in figures.show(name)]
    return "\n\n".join(parts)


class Figures:
    """The drawn figures, each shown where it is first spoken of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shown: set[str] = set()

    def show(self, name: str) -> list[str]:
        """The figure and its table, or a link to what stands above; nothing if it is not drawn."""
        file, beside = (self._folder / f"{name}{suffix}" for suffix in (".png", ".md"))
        if not file.is_file():
            return []
        title = load_experiment(name)["title"]
        if name in self._shown:
            return [f"[{title}](figures/{name}.png): above."]
        self._shown.add(name)
        tables = [beside.read_text("utf-8").strip()] if beside.is_file() else []
        return [f"![{title}](figures/{name}.png)", f"*{title}* (`gdo plot {name}`)", *tables]


def _missing(evidence: Evidence, judged: Sequence[Judged]) -> str:
    """What the experiments lack, points without a run and runs without an analysis, and how it is made."""
    names = dict.fromkeys(name for j in judged for name in j.claim.figures)
    rows = []
    for name in names:
        done, missing = evidence.experiment(name)
        if missing:
            share = f"{len(missing)} of {len(done) + len(missing)} points"
            rows.append((name, share, f"`gdo sweep experiment={name}`"))
        if kind := _analysis(name, evidence.config_dir):
            rows += [
                (name, f"an analysis ({kind})", f"`gdo analyze {kind} {run.title}`, which takes its weights")
                for run in done
                if run.analysis(kind) is None
            ]
    return table(("experiment", "what is missing", "to fill in"), rows) if rows else "Nothing."


def _analysis(experiment: str, config_dir: Path | None) -> str | None:
    """What ``gdo analyze`` has to find before the experiment's figure can be drawn; None for most."""
    figure = load_experiment(experiment, config_dir)
    return None if figure is None else read_spec(figure, config_dir).analysis
