"""The report as one HTML file: figures inside, tables that sort, curves of every run to choose from."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt

from gdo_cli.figures.style import METRICS, TASKS, line_style
from gdo_cli.markdown import rate
from gdo_cli.report.page import anchor
from gdo_cli.results import RETENTION, RunResult, find_runs

_IMAGE = re.compile(r'<img src="(figures/([\w.-]+)\.png)"')
_ABOVE = re.compile(r'href="figures/([\w.-]+)\.png"')
_TITLE = re.compile(r"<h3>(.*?)</h3>")


def page(markdown: str, results: Path) -> str:
    """The Markdown as a page that needs no other file."""
    body = MarkdownIt("commonmark", {"typographer": False}).enable("table").render(markdown)
    body = _TITLE.sub(lambda m: f'<h3 id="{anchor(m[1])}">{m[1]}</h3>', body)
    body = _IMAGE.sub(lambda m: f'<img id="figure-{m[2]}" src="{_inside(results / m[1])}"', body)
    body = _ABOVE.sub(r'href="#figure-\1"', body)
    runs = find_runs(results)
    data = {"runs": [_curves(run) for run in runs], "metrics": METRICS, "tasks": TASKS}
    # "</" would end the script in which the data stand.
    script = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    template = Environment(loader=PackageLoader("gdo_cli.report", "."), autoescape=True).get_template(
        "page.html"
    )
    return template.render(body=body, data=script, runs=[_row(run) for run in runs])


def _inside(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def _curves(run: RunResult) -> dict[str, Any]:
    """Every measure of a run against its steps."""
    kept = [
        {k: round(v, 5) for k, v in line.items() if k in METRICS or k == "step"} for line in run.evaluations
    ]
    look = line_style(run.name["method"], zlib.crc32(run.name["method"].encode()))
    dash = "" if look.linestyle == "-" else "6 4"
    return {
        "name": _name(run),
        "task": run.name["task"],
        "color": look.color,
        "dash": dash,
        "evaluations": kept,
    }


def _name(run: RunResult) -> str:
    at = f" {rate(run.record['config']['train']['lr'])}" if run.record["steps"] else ""
    return f"{run.label}{at}, {run.id}, seed {run.seed}"


def _row(run: RunResult) -> dict[str, Any]:
    """A run in the table of runs."""
    final = run.final
    return {
        "run": run.title.partition("/")[2],
        "method": run.label,
        "task": run.name["task"],
        "rate": rate(run.record["config"]["train"]["lr"]) if run.record["steps"] else "–",
        "steps": run.record["steps"],
        "layers": run.record["layers"]["chosen"],
        "trained": run.record["parameters"]["trainable_share"],
        "scores": {metric: final.get(metric) for metric in (run.task_score, *_SHOWN)},
        "minutes": run.record["wall_seconds"] / 60,
        "gib": run.record["peak_memory_bytes"] / 2**30,
    }


_SHOWN = (
    RETENTION,
    "winogrande/likelihood",
    "arc_easy/likelihood",
    "lambada/last_word",
    "perplexity/loss",
)
