"""``gdo init``: a folder with a task, a probe and a contract of one's own, ready to edit and run."""

from __future__ import annotations

from pathlib import Path

from gdo_cli.support.errors import UserError, require
from gdo_cli.support.files import write_for_user

TASK = """\
# What is learnt: your own rows. Used by: gdo train --config-dir {folder} task=mine
_target_: gdo_cli.tasks.jsonl.JSONL
path: {folder}/data/task.jsonl        # JSON Lines, CSV, TSV or Parquet
dataset:
  name: mine
  path: ${{task.path}}
  splits: {{train: "all[:-8]", validation: "all[-8:-4]", test: "all[-4:]"}}  # or files of a folder: train, …
prompt: "Ticket: {{ticket}}\\nTeam:"     # \\n is a line break; {{ticket}} is a field of a row
completion: "{{team}}"
score: exact_match                     # or f1, bleu, chrf
lines: one                             # many: an answer may have several lines
max_new_tokens: 16
"""

PROBE = """\
# @package probe.support
# What must not be lost: questions of your own with options, answered by likelihood.
_target_: gdo_cli.probes.own.Choices
path: {folder}/data/support.jsonl
dataset: {{name: support, path: "${{..path}}", splits: {{eval: all}}}}
question: question
options: options
answer: answer                         # the right option: its text, its letter, or its place from 0
items: null                            # all rows; a number draws that many, always the same ones
shots: 0
throughout: true
"""

KEEP = """\
# @package _global_
# How much may be lost. Used by: gdo train --config-dir {folder} keep=mine, gdo check …, gdo tune …
defaults:
  - override /probe: [support]         # add arc_easy, piqa, lambada, perplexity for what it knew in general
keep:
  tolerances:
    support: 0.1                       # its accuracy may fall by 0.1; 0: not at all, on these items
    # perplexity: 2%                   # loss on general text may rise by 2 % of the base model's
    # retention/index: 0.05            # of what lies above guessing in arc_easy, piqa and lambada
  level: 0.05                          # of the one-sided test behind each promise
"""

_TICKETS = [
    ("I was charged twice this month", "billing"),
    ("The app closes when I open a photo", "software"),
    ("My parcel has not arrived yet", "shipping"),
    ("Please send me last year's invoices", "billing"),
    ("The screen stays black after the update", "software"),
    ("The box was open when it came", "shipping"),
]
_QUESTIONS = [
    ("Which of these is a colour?", ["table", "green"], "green"),
    ("What do bees make?", ["honey", "glass"], "honey"),
    ("How many days has a week?", ["seven", "twelve"], "seven"),
    ("Where do fish live?", ["in water", "in trees"], "in water"),
]

README = """\
# A folder for gdo

    # To see that all is in its place:
    gdo train --config-dir {folder} task=mine keep=mine model=tiny train=quick
    # The default model, by growth; then: has it learnt, has it kept?
    gdo train --config-dir {folder} task=mine keep=mine
    gdo check RUN --config-dir {folder} keep=mine
    # The best model that keeps it:
    gdo tune --config-dir {folder} task=mine keep=mine trials=12

Put your rows into data/, then edit task/mine.yaml, probe/support.yaml and keep/mine.yaml. For more of
each, put another file beside it. The examples in data/ are too few to learn or to judge anything by: they
only show the form.
"""


def create(folder: Path) -> list[Path]:
    """Write the folder and return its files.

    Raises:
        UserError: it exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; name a new folder")
    require(
        all(c.isprintable() and c not in "'\"{}$#:" for c in str(folder)), f"{folder}: give it a plain name"
    )
    from gdo_cli.support.files import json_text

    tickets = [{"ticket": f"{text} ({n})", "team": team} for n in range(1, 7) for text, team in _TICKETS]
    questions = [{"question": q, "options": o, "answer": a} for q, o, a in _QUESTIONS]
    content = {
        "README.md": README,
        "task/mine.yaml": TASK,
        "probe/support.yaml": PROBE,
        "keep/mine.yaml": KEEP,
    }
    files = {name: text.format(folder=folder) for name, text in content.items()}
    files["data/task.jsonl"] = "".join(json_text(row) + "\n" for row in tickets)
    files["data/support.jsonl"] = "".join(json_text(row) + "\n" for row in questions)
    written = []
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_for_user(file, text)
        written.append(file)
    return written
