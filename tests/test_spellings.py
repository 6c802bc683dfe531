"""An override means what it reads: line breaks in templates, and every spelling of the same values."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from conftest import recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from gdo_cli.config.build import load_run, rebuild
from gdo_cli.config.compose import Composer
from gdo_cli.config.grid import load_grid
from gdo_cli.config.options import quoted
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity
from gdo_cli.tasks.base import Example
from gdo_cli.tasks.jsonl import JSONL

ROW = {"question": "Is water wet?", "answer": "yes", "raw": r"a\nb"}


@cache
def composer() -> Composer:
    return Composer()


# ------------------------------------------------------------------------------------- templates


def own(*words: str) -> tuple[Example, str]:
    """The example that overrides make of the row, and the run's id."""
    run = load_run(
        ["model=tiny", "task=jsonl", "task.path=x", "task.completion='{answer}'", *words], composer()
    )
    return run.task.example(ROW), run.id


SPELLINGS = [r'"Q: {question}\nA:"', r"'Q: {question}\nA:'", '"Q: {question}\nA:"', "'Q: {question}\nA:'"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_line_break_in_a_template_is_one_however_it_is_written(spelling: str) -> None:
    example, name = own(f"task.prompt={spelling}")
    assert example.prompt == "Q: Is water wet?\nA:"
    assert name == own(f"task.prompt={SPELLINGS[0]}")[1]


@pytest.mark.parametrize(
    "scalar", [r'"Q: {question}\nA:"', r"'Q: {question}\nA:'", "|-\n  Q: {question}\n  A:"]
)
def test_a_line_break_in_yaml_is_the_same(tmp_path: Path, scalar: str) -> None:
    (tmp_path / "task").mkdir()
    text = f"defaults: [jsonl]\npath: x\ncompletion: '{{answer}}'\nprompt: {scalar}\n"
    (tmp_path / "task/mine.yaml").write_text(text)
    run = load_run(["model=tiny", "task=mine"], tmp_path)
    assert run.task.example(ROW).prompt == "Q: Is water wet?\nA:"
    assert run.id == own(f"task.prompt={SPELLINGS[0]}")[1]


TEMPLATES = {
    r"{question}\n\n": "Is water wet?\n\n",
    r"\t{question}": "\tIs water wet?",
    r"{question}\t\n-": "Is water wet?\t\n-",
    r"\\nabla {question}": r"\nabla Is water wet?",
    r"\\\n{question}": "\\\nIs water wet?",
    r"\\\\t{question}": r"\\tIs water wet?",
    r"\alpha {question}": r"\alpha Is water wet?",
    r"C:\\data {question}": r"C:\data Is water wet?",
    r'Say "{question}"\nA:': 'Say "Is water wet?"\nA:',
    r"It's {question}\nA:": "It's Is water wet?\nA:",
    r"{{{question}}}\n": "{Is water wet?}\n",
    r"{raw}\n": "a\\nb\n",
    "Q: {question}\nA:": "Q: Is water wet?\nA:",
    "Était-ce {question} 😀\\n": "Était-ce Is water wet? 😀\n",
}


@pytest.mark.parametrize(("template", "prompt"), TEMPLATES.items())
def test_a_template_is_the_text_that_it_reads(template: str, prompt: str) -> None:
    assert own(f"task.prompt={quoted(template)}")[0].prompt == prompt
    double = re.sub(r'(\\*)(")', lambda m: 2 * m[1] + '\\"', template)
    assert own(f'task.prompt="{double}"')[0].prompt == prompt


def test_an_answer_with_a_line_break_is_one_line_too_many_or_several() -> None:
    words = [r"task.completion='{answer}\n{question}'", "task.prompt='{question}'"]
    assert own(*words, "task.lines=many")[0].answer == " yes\nIs water wet?"
    with pytest.raises(ValueError, match="several lines"):
        own(*words)


text = st.text(st.sampled_from("nt\\\n\t\"'aé: $"), max_size=8)


@given(before=text, after=text)
@settings(deadline=None, max_examples=12)
def test_a_run_rebuilt_from_its_record_has_the_same_template(before: str, after: str) -> None:
    word = f"task.prompt={quoted(f'{before}{{question}}{after}')}"
    run = load_run(
        ["model=tiny", "task=jsonl", "task.path=x", "task.completion='{answer}'", word], composer()
    )
    content = {"config": identity(run), "name": run.name, "overrides": run.overrides, "id": run.id}
    again = rebuild(RunResult(run.path, recorded(content)), composer())
    assert again.task == run.task
    assert again.id == run.id
    unescaped = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
    said = [re.sub(r"\\[nt\\]", lambda m: unescaped[m[0]], part) for part in (before, after)]
    assert run.task.example(ROW).prompt == f"{said[0]}Is water wet?{said[1]}".rstrip(" ")


def test_in_a_library_a_template_is_read_once() -> None:
    task = JSONL(path="x", prompt=r"{question}\\n\n")
    assert task.example(ROW | {"completion": "y"}).prompt == "Is water wet?\\n\n"
    assert JSONL(path="x", prompt=task.prompt) == task


# ------------------------------------------------------------------------------------------ grids

EXPERIMENT = """# @package _global_
defaults:
  - override /model: tiny
sweep:
  - {method: "sft,g_freeze", evaluation.every: 25}
  - {method: "lora,dora", train.lr: 2e-4}
  - {method: g_freeze, layers: "[0,1],[0,2]", seed: 3}
  - {method: mlp_only, train.lr: "0.25,1e-3", train.lr_scale: {gate_proj: 0.5, up_proj: 0.25}}
"""


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Composer:
    folder = tmp_path_factory.mktemp("own")
    (folder / "experiment").mkdir()
    (folder / "experiment/several.yaml").write_text(EXPERIMENT)
    return Composer(folder)


@cache
def points(conf: Composer, *words: str) -> list[tuple[list[str], str, int]]:
    return [(words, run.id, run.seed) for words, run in load_grid(["experiment=several", *words], conf)]


SAME = {
    "one option": [
        "method=lora",
        "method=choice(lora)",
        "method='lora'",
        'method="lora"',
        "method=glob(lora)",
        "method=glob(lor*)",
        "method=lora,lora",
        "method= lora ",
        "method=sort(lora)",
    ],
    "two options": [
        "method=sft,g_freeze",
        "method=sft, g_freeze",
        "method=sft , g_freeze",
        "method='sft','g_freeze'",
        "method=choice(sft,g_freeze)",
        "method=choice( 'sft' , \"g_freeze\" )",
        "method=g_freeze,sft",
        "method=glob([sft,g_freeze])",
        "method=shuffle(sft,g_freeze)",
        "method=glob([sft,g_*],exclude=g_train)",
        "method=sort(sft,g_freeze,reverse=true)",
    ],
    "numbers": [
        "method=mlp_only train.lr=0.25",
        "method=mlp_only train.lr=.25",
        "method=mlp_only train.lr=0.250",
        "method=mlp_only train.lr=2.5e-1",
        "method=mlp_only train.lr='0.25'",
        "method=mlp_only train.lr=25e-2",
        "method=mlp_only train.lr=choice(.25)",
        "method=mlp_only train.lr=0.25,.25",
        "method=mlp_only train.lr=range(0.25,0.3,0.1)",
        "method=mlp_only train.lr=float('0.25')",
    ],
    "lists": [
        "method=g_freeze layers=[0,1]",
        "method=g_freeze layers=[0, 1]",
        "method=g_freeze 'layers=[ 0 , 1 ]'",
        "method=g_freeze layers=choice([0,1])",
        "method=g_freeze layers=[0,1],[0,1]",
    ],
    "mappings": [
        "method=mlp_only train.lr=1e-3 train.lr_scale={gate_proj:0.5,up_proj:0.25}",
        "method=mlp_only train.lr=0.001 train.lr_scale={gate_proj:.5,up_proj:.250}",
        "method=mlp_only train.lr=1e-3 train.lr_scale={up_proj:0.25,gate_proj:0.5}",
        "method=mlp_only train.lr=1e-3 'train.lr_scale={gate_proj: 0.5, up_proj: 0.25}'",
    ],
}


def override_words(line: str) -> list[str]:
    """Overrides of a line; spaces stand in some of them."""
    found = re.split(r" (?='?[+a-z_.]+=)", line)
    return [word[1:-1] if re.match(r"'[a-z_.]+=", word) else word for word in found]


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("first", "other"),
    [(spellings[0], other) for spellings in SAME.values() for other in spellings[1:]],
    ids=str,
)
def test_every_spelling_of_values_gives_the_same_points(several: Composer, first: str, other: str) -> None:
    wanted, found = (points(several, *override_words(line)) for line in (first, other))
    assert len(wanted) == len(found) > 0
    assert {(name, seed) for _, name, seed in found} == {(name, seed) for _, name, seed in wanted}


def test_what_the_grids_of_an_experiment_set_is_kept_with_the_points(several: Composer) -> None:
    found = points(several, "method=choice(g_freeze,'lora')")
    assert [
        [w for w in words if w.partition("=")[0] not in ("method", "experiment")] for words, _, _ in found
    ] == [
        ["evaluation.every=25"],
        ["train.lr=0.0002"],
        ["layers=[0,1]", "seed=3"],
        ["layers=[0,2]", "seed=3"],
    ]


@given(
    lr=st.sampled_from([1e-5, 2e-4, 0.25, 0.5]),
    spell=st.sampled_from(["{!r}", "{:e}", "{:.20f}", "'{!r}'", "choice({!r})", " {!r}", "{!r},{:e}"]),
)
@settings(deadline=None, max_examples=8)
def test_a_number_is_the_same_value_in_every_notation(lr: float, spell: str) -> None:
    plain, other = (["model=tiny", f"train.lr={value}"] for value in (repr(lr), spell.format(lr, lr)))
    (_, wanted), *more = load_grid(plain, composer())
    (_, found), *others = load_grid(other, composer())
    assert not more + others
    assert wanted.id == found.id


@pytest.mark.parametrize("word", ["true", "1.50", "1e5"])
def test_text_that_yaml_takes_for_something_else_is_refused_with_the_quotes_it_needs(word: str) -> None:
    given = ["model=tiny", "task=jsonl", "task.path=x"]
    with pytest.raises(UserError, match=r"task\.prompt=.*: this is text; write 'task\.prompt=\"…\"'"):
        load_run([*given, f"task.prompt={word}"], composer())
    task = load_run([*given, f'task.prompt="{word}"'], composer()).task
    assert isinstance(task, JSONL)
    assert task.prompt == word


def test_what_refers_to_a_setting_that_is_none_says_how_to_write_the_signs_themselves() -> None:
    with pytest.raises(UserError, match=r"write \\\$\{…\} for these signs"):
        load_run(["model=tiny", "task=jsonl", "task.path=x", "task.prompt='${question}'"], composer())


def test_spellings_of_one_run_are_one_point_of_a_grid() -> None:
    words = ["model=tiny", "method=g_freeze"]
    ((_, run),) = load_grid([*words, "layers=[0,2],[2,0]"], composer())
    assert run.id == load_run([*words, "layers=[0,2]"], composer()).id


def test_a_setting_of_a_part_that_is_left_out_says_what_leaves_it_out() -> None:
    with pytest.raises(UserError, match=r"probe\.winogrande\.items: no such key; probe=\[\] leaves it out"):
        load_run(["model=tiny", "probe=[]", "probe.winogrande.items=4"], composer())


def test_a_list_of_layers_in_quotes_is_told_to_lose_them() -> None:
    with pytest.raises(UserError, match="without quotes"):
        load_run(["model=tiny", "method=g_freeze", "layers='[0,2]'"], composer())


def test_a_list_of_layers_is_the_same_run_in_any_order() -> None:
    runs = [
        load_run(["model=tiny", "method=g_freeze", f"layers={given}"], composer())
        for given in ("[0,2]", "[2,0]")
    ]
    assert runs[0].id == runs[1].id


@pytest.mark.parametrize("word", ["method='sft,g_freeze'", "method=[sft,g_freeze]", "method='sft, lora'"])
def test_several_options_in_one_name_are_refused_with_how_to_write_them(word: str) -> None:
    with pytest.raises(
        UserError, match=r"name one option \(gdo sweep takes several: method=a,b without quotes"
    ):
        load_grid(["model=tiny", word], composer())
