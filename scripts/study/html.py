"""The report as one HTML file: figures inside, tables that sort, curves of every run to choose from."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Container, Iterator
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markdown_it.token import Token

from gdo_cli.figures.groups import TASKS
from gdo_cli.figures.style import MEASURES, line_style, name_of
from gdo_cli.runs.find import by_id, find_runs
from gdo_cli.runs.names import differences
from gdo_cli.runs.record import RETENTION, RunResult
from gdo_cli.stats.metrics import BLEU, EXACT_MATCH, task_scores
from gdo_cli.support.markdown import rate
from study.page import anchor

_FIGURE = re.compile(r"figures/([\w.-]+)\.png")
_COLUMNS = ("lr", "layers", "model", "task", "steps")  # of the table of runs: what need not stand in a name
_SHOWN = (
    EXACT_MATCH.key,
    BLEU.key,
    RETENTION,
    "winogrande/likelihood",
    "arc_easy/likelihood",
    "lambada/last_word",
    "perplexity/loss",
)


def page(markdown: str, results: Path) -> str:
    """The Markdown as a page that needs no other file."""
    runs = find_runs(results)
    # What tells runs apart, among those of one task: no table and no curve has several.
    own: dict[str, dict[str, str]] = {}
    for task in {run.name["task"] for run in runs}:
        own |= differences(run for run in runs if run.name["task"] == task)
    seeds = by_id(runs)
    names = _names(runs)
    data = {
        "runs": [_curves(run, own[run.id], names, several=len(seeds[run.id]) > 1) for run in runs],
        "metrics": names,
        "tasks": TASKS,
    }
    # Without "<" nothing in a name can end the script in which the data stand, or open a comment there.
    script = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    template = Environment(loader=PackageLoader("study", "."), autoescape=True).get_template("page.html")
    return template.render(
        body=_body(markdown, results),
        data=script,
        runs=[_row(run, own[run.id]) for run in runs],
        models=sorted({run.name["model"] for run in runs}),
    )


# ------------------------------------------------------------------------------------------- text


def _body(markdown: str, results: Path) -> str:
    """The Markdown as HTML: headings to link to, tables that scroll in a box of their own, figures inside."""
    # Names of runs stand in the text: no HTML of theirs may get through.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens: list[Token] = []
    heading, tables = "", 0
    for token, after in _pairs(parser.parse(markdown)):
        if token.type == "heading_open" and after is not None:
            heading = _text(after)
            if token.tag == "h3":
                token.attrSet("id", anchor(heading))
        if token.type == "inline":
            token.children = _alone(token.children or [], results)
        if token.type == "table_open":
            tables += 1
            label = escape(f"Table {tables}: {heading}")
            tokens.append(_raw(f'<div class="box" tabindex="0" role="region" aria-label="{label}">'))
        tokens.append(token)
        if token.type == "table_close":
            tokens.append(_raw("</div>"))
    return str(parser.renderer.render(tokens, parser.options, {}))


def _pairs(tokens: list[Token]) -> Iterator[tuple[Token, Token | None]]:
    """Each token with the next one, which holds the text of a heading."""
    return zip(tokens, [*tokens[1:], None], strict=True)


def _text(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [])


def _raw(html: str) -> Token:
    return Token("html_block", "", 0, content=html)


def _alone(children: list[Token], results: Path) -> list[Token]:
    """Figures as data, links to figures as links to where they stand, other files' names as plain text."""
    kept = []
    links: list[bool] = []  # whether those that are open are kept
    for child in children:
        if child.type == "image":
            child = _image(child, results)
        elif child.type == "link_open":
            to = str(child.attrGet("href"))
            figure = _FIGURE.fullmatch(to)
            if figure:
                child.attrSet("href", f"#figure-{figure[1]}")
            links.append(bool(figure) or to.startswith("#"))
        if not child.type.startswith("link_") or links[-1]:
            kept.append(child)
        if child.type == "link_close":
            links.pop()
    return kept


def _image(image: Token, results: Path) -> Token:
    source = str(image.attrGet("src"))
    figure = _FIGURE.fullmatch(source)
    if not figure:
        return Token("text", "", 0, content=image.content)
    inside = base64.b64encode((results / source).read_bytes()).decode()
    image.attrs = {"id": f"figure-{figure[1]}", "src": f"data:image/png;base64,{inside}", "alt": ""}
    return image


# ------------------------------------------------------------------------------------------- runs


def _names(runs: list[RunResult]) -> dict[str, str]:
    """What the measures are called that the runs were evaluated in."""
    measured = {key for run in runs for line in run.evaluations for key in line}
    return {key: name_of(key) for key in (*task_scores(), *MEASURES) if key in measured}


def _curves(run: RunResult, own: dict[str, str], names: Container[str], several: bool) -> dict[str, Any]:
    """Every measure of a run against its steps."""
    look = line_style(run.name["method"], zlib.crc32(run.name["method"].encode()))
    at = [f"{run.label} {_rate(run)}" if run.record.steps else run.label]
    at += [f"{key}={value}" for key, value in own.items() if key != "lr"]
    return {
        "id": run.id,
        "name": ", ".join([*at, f"seed {run.seed}"] if several else at),
        "model": run.name["model"],
        "task": run.name["task"],
        "color": look.color,
        "dash": "" if look.linestyle == "-" else "6 4",
        "evaluations": [
            {k: _finite(v) for k, v in line.items() if k in names or k == "step"} for line in run.evaluations
        ],
    }


def _finite(value: float) -> float | None:
    """JSON has no other numbers: a loss that ran away is none."""
    return round(value, 5) if math.isfinite(value) else None


def _rate(run: RunResult) -> str:
    return rate(run.record.config["train"]["lr"])


def _row(run: RunResult, own: dict[str, str]) -> dict[str, Any]:
    """A run in the table of runs."""
    layers, data = run.record.layers.chosen, run.record.data
    items = (data.get("test_items", "–"), data.get("probe/winogrande", {}).get("items", "–"))
    return {
        "run": f"{run.name['method']}-{run.id}",
        "model": run.name["model"],
        "method": ", ".join([run.label, *(f"{k}={v}" for k, v in own.items() if k not in _COLUMNS)]),
        "task": run.name["task"],
        "rate": _rate(run) if run.record.steps else "–",
        "seed": run.seed,
        "steps": run.record.steps,
        "layers": layers,
        "trained": run.record.parameters.trainable_share,
        "items": " / ".join(map(str, items)),
        "scores": [run.final.get(metric) for metric in _SHOWN],
        "minutes": run.record.wall_seconds / 60,
        "gib": run.record.peak_memory_bytes / 2**30,
    }
