"""Every command line that gdo shows (README, docs, comments of its YAML, help texts) is one that it takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gdo_cli.cli.app import app
from gdo_cli.commands.ls import listed
from gdo_cli.config.compose import Composer
from gdo_cli.config.grid import load_grid, load_sweep
from gdo_cli.config.options import GROUPS, PLUGGED, conf_dir, options_with
from gdo_cli.config.tune import Tuning
from gdo_cli.support.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = "\n".join(page.read_text("utf-8") for page in PAGES)
KEYS = (
    *GROUPS,
    "hydra",
    "evaluation",
    "wandb",
    "layers",
    "layer_rule",
    "seed",
    "results_dir",
    "save_weights",
)
WORD = re.compile(r"'?([a-z]\w*)[\w./]*=\S")
COMMANDS = typer.main.get_command(app)
# What a reader puts something in the place of.
PLACEHOLDERS = {
    "run=…": "run=x",
    "path=…": "path=x",
    "=…": "=0.5",
    "=N": "=2",
    "=DIR_OR_HUB_ID": "=x",
    "=DIR": "=x",
    "=FOLDER": "=.",
    "=RUN": "=x",
}


def is_override(word: str) -> bool:
    found = WORD.match(word)
    return found is not None and found[1] in KEYS


def code_lines() -> Iterator[str]:
    """Commands in blocks of shell code, one each."""
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.S):
        for line in block.splitlines():
            yield from (part.strip() for part in re.split(r" +#", line)[0].split("; ") if part.strip())


def spans() -> Iterator[str]:
    """What stands between backquotes in texts, and commands between bold marks in help texts."""
    text = re.sub(r"```.*?```", "", README, flags=re.S)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
    for help_text in help_texts(COMMANDS):
        yield from (" ".join(span.split()) for span in re.findall(r"\[b\](.*?)\[/b\]", help_text, flags=re.S))


def help_texts(command: Any) -> Iterator[str]:
    yield command.help or ""
    yield from (getattr(p, "help", None) or "" for p in command.params)
    for child in getattr(command, "commands", {}).values():
        yield from help_texts(child)


def prose() -> Iterator[str]:
    """Overrides in comments of YAML files and in help texts: as many as stand side by side."""
    comments = [
        line.partition("#")[2]
        for file in conf_dir().rglob("*.yaml")
        for line in file.read_text().splitlines()
    ]
    for text in (*comments, *help_texts(COMMANDS)):
        words = re.findall(r"'[^']*'|\S+", re.sub(r"\[/?b\]", "", text))
        words = [w.strip("'") if w.count("=") == 2 else w for w in words]  # several in one argument
        for shown, group in groupby((w.rstrip(".,;:)").lstrip("(") for w in words), key=is_override):
            if shown and "*" not in (line := " ".join(group)):  # those are filters of `gdo ls`
                yield line


SHOWN = sorted({*code_lines(), *(s for s in spans() if s.startswith("gdo ") and "make" not in s)})
OVERRIDES = sorted(
    {*(s for s in spans() if all(map(is_override, re.findall(r"'[^']*'|\S+", s)))), *prose()} - {""}
)


def words_of(line: str) -> list[str]:
    for shown, given in PLACEHOLDERS.items():
        line = re.sub(re.escape(shown) + r"(?=[\s'.,]|$)", given, line)
    return shlex.split(line)


@cache
def composer() -> Composer:
    return Composer()


@cache
def composed(*given: str) -> int:
    """How many points the overrides are; what they leave open is chosen so that it takes them."""
    words, named = list(given), {word.partition("=")[0] for word in given}
    for group in ("method", "task", "model"):
        wanted = [key.split(".")[1] for key in named if key.startswith(f"{group}.")]
        if wanted and group not in named:
            words.append(
                f"{group}={min(set.intersection(*(set(options_with(group, key)) for key in wanted)))}"
            )
    needed = {"task=jsonl": "task.path", "model=custom": "model.path"}
    needed |= {"probe=lm_eval": "probe.lm_eval.tasks"}
    needed |= {f"probe={own}": f"probe.{own}.path" for own in ("choices", "answers", "text")}
    needed |= {"method=wise_ft": "method.run", "method=averaged": "method.run"}
    absent = [key for word, key in needed.items() if word in words and key not in named]
    words += [f"{key}=[x]" if key.endswith(".tasks") else f"{key}=x" for key in absent]
    if any(o.key_or_group in PLUGGED for o in composer().parse(words, sweeps=True)):
        try:
            load_sweep(words, composer())
        except UserError as error:
            if "its plugin is not installed" not in str(error):  # an extra
                raise
        return 1
    if "experiment" in named:  # of its grid, so much as is quick
        words += [w for w in ("task=scitail", "method=g_freeze") if w.partition("=")[0] not in named]
    return len(load_grid(words if "data" in named else [*words, "data=sample"], composer()))


def named_command(words: list[str]) -> Any:
    """The command of a line that names one and no more, ``gdo analyze fv``; None for any other line."""
    command: Any = COMMANDS
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    return command


def context(words: list[str]) -> Any:
    """The command that a line calls, with its arguments as it gets them."""
    command: Any = COMMANDS
    at, rest = None, ["gdo", *words]
    while hasattr(command, "commands"):
        at = command.make_context(rest[0], rest[1:], parent=at)
        name, command, rest = command.resolve_command(at, [*at._protected_args, *at.args])
        rest = [name, *rest]
    return command.make_context(rest[0], rest[1:], parent=at)


def test_there_are_as_many_as_one_sees() -> None:
    assert len(SHOWN) > 20
    assert len(OVERRIDES) > 40
    assert {"gdo sweep layers=1,3,5,10,20", "make demo"} <= set(SHOWN)
    assert (
        """task=jsonl task.path=my.jsonl 'task.prompt="Q: {question}\\nA:"' 'task.completion="{answer}"'"""
        in OVERRIDES
    )


@pytest.mark.few(13)
@pytest.mark.parametrize("line", SHOWN)
def test_a_command_that_is_shown_is_one_that_gdo_takes(line: str) -> None:
    words = words_of(line)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    if "gdo_cli" in words:  # behind a launcher of processes
        words = words[words.index("gdo_cli") :]
    if words[1:] == ["--help"] or named_command(words[1:]):
        return
    called = context(words[1:])
    given = called.params.get("overrides") or called.params.get("target") or []
    given = [word for word in ([given] if isinstance(given, str) else given) if "=" in word]
    given = [part for word in given for part in (shlex.split(word) if word.count("=") > 1 else [word])]
    if called.command.name == "tune":
        assert Tuning([*given, "data=sample"], None).usual()
    elif given or called.command.name in ("train", "sweep", "plan", "config"):
        assert composed(*given) >= 1
    if called.command.name == "ls":
        listed(ROOT / "results", called.params["filters"] or [])


@pytest.mark.few(17)
@pytest.mark.parametrize("line", OVERRIDES)
def test_overrides_that_are_shown_compose(line: str) -> None:
    assert composed(*words_of(line)) >= 1
