"""MTNT: scored as sacrebleu's own command does, and what stands in for its train split says so."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu.utils
from conftest import TINY_RUN, RunFactory
from typer.testing import CliRunner

from gdo_cli.cli.app import app
from gdo_cli.config.build import load_run
from gdo_cli.data.config import DataConfig
from gdo_cli.data.dataset import Row
from gdo_cli.data.rows import SAMPLE_DIR, load_split
from gdo_cli.experiment import run as experiment
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.figures.groups import sources
from gdo_cli.stats.metrics import BLEU, Response
from gdo_cli.tasks.base import Task

ODD: list[Row] = [
    {"en": "No-break\xa0spaces", "fr": "Espaces\xa0insécables\u202f: «\xa0oui\xa0»\xa0!"},
    {"en": "two  spaces", "fr": "  deux   espaces ,etc...  "},
    {"en": "emoji", "fr": "😀 lol 1,000.5 km/h #vivelafrance @moi"},
]


@pytest.fixture
def task() -> Task:
    return load_run(["model=tiny", "data=sample", "task=mtnt_reverse"]).task


def test_a_hypothesis_file_gets_score_and_signature_of_the_sacrebleu_command(
    task: Task, tmp_path: Path
) -> None:
    """``sacrebleu -t mtnt1.1/test -l en-fr``, with rows of our own where it looks for the official ones."""
    rows = [*load_split(task.dataset, "test", DataConfig(source="sample")).rows, *ODD]
    folder = tmp_path / "mtnt1.1" / "test"
    folder.mkdir(parents=True)
    for field, key in (("src", "en"), ("ref", "fr")):
        file = folder / f"mtnt1.1_test.en-fr.{field}"
        file.write_text("".join(f"{row[key]}\n" for row in rows), "utf-8")
    draw = random.Random(0)
    hypotheses = [" ".join(w for w in row["fr"].split() if draw.random() > 0.2) for row in rows]
    (tmp_path / "mine.txt").write_text("".join(f"{text}\n" for text in hypotheses), "utf-8")

    command = [sys.executable, "-m", "sacrebleu", "-t", "mtnt1.1/test", "-l", "en-fr", "-w", "9"]
    environment = os.environ | {"SACREBLEU": str(tmp_path), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [*command, "-i", str(tmp_path / "mine.txt")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(done.stdout)

    answers = [task.example(row).answer.strip() for row in rows]
    ours = task.metric.score([Response(t, a, t == a) for t, a in zip(hypotheses, answers, strict=True)])
    assert task.metric is BLEU
    assert 0 < ours.value < 100
    assert ours.value == pytest.approx(theirs["score"], abs=1e-8)
    assert ours.provenance == {"bleu_signature": theirs["signature"]}
    assert re.fullmatch(
        r"nrefs:1\|case:mixed\|eff:no\|tok:13a\|smooth:exp\|version:[\d.]+", theirs["signature"]
    )


def test_through_sacrebleu_the_train_pairs_are_the_other_direction_turned_round(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(test_set: str, pair: str, side: str) -> str:
        file = tmp_path / f"{test_set}.{pair}.{side}".replace("/", "_")
        file.write_text(f"{side} of {pair} in {test_set}\n", "utf-8")
        return str(file)

    monkeypatch.setattr(sacrebleu.utils, "get_source_file", lambda name, pair: put(name, pair, pair[:2]))
    monkeypatch.setattr(
        sacrebleu.utils, "get_reference_files", lambda name, pair: [put(name, pair, pair[3:])]
    )
    hub = DataConfig(source="hub")
    assert load_split(task.dataset, "train", hub).rows == [
        {side: f"{side} of fr-en in mtnt1.1/{name}" for side in ("en", "fr")} for name in ("valid", "test")
    ]
    for role, name in (("validation", "valid"), ("test", "test")):
        expected = {side: f"{side} of en-fr in mtnt1.1/{name}" for side in ("en", "fr")}
        assert load_split(task.dataset, role, hub).rows == [expected]


def test_a_data_folder_holds_the_pairs_under_a_name_of_their_own(task: Task, tmp_path: Path) -> None:
    (tmp_path / "mtnt").mkdir()
    for name in ("train", "train_reverse_direction", "valid", "test"):
        (tmp_path / "mtnt" / f"{name}.jsonl").write_text(json.dumps({"en": name, "fr": name}) + "\n")
    local = DataConfig(source="local", dir=str(tmp_path))
    found = {role: load_split(task.dataset, role, local).rows[0]["en"] for role in task.dataset.splits}
    assert found == {"train": "train_reverse_direction", "validation": "valid", "test": "test"}


def test_the_record_the_listing_and_every_caption_say_what_was_trained_on(task: Task, tmp_path: Path) -> None:
    for name, rows in (("train_reverse_direction", "train"), ("valid", "valid"), ("test", "test")):
        (tmp_path / "data/mtnt").mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLE_DIR / f"mtnt/{rows}.jsonl", tmp_path / f"data/mtnt/{name}.jsonl")
    local = ["data=local", f"data.dir={tmp_path / 'data'}", "probe=[]"]
    said = "not trained on MTNT's own train split but on its 1,908 French to English"
    small = [word for word in TINY_RUN if not word.startswith(("probe", "data"))]
    words = [
        "task=mtnt_reverse",
        "method=sft",
        "task.max_new_tokens=4",
        f"results_dir={tmp_path / 'results'}",
    ]
    run = experiment.run(load_run([*small, *local, *words]))
    assert run.record.data["note"] == task.dataset.note
    assert task.dataset.note.startswith(said)
    assert run.record.data["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|")
    assert f"mtnt_reverse: {said}" in sources([run])
    shown = CliRunner().invoke(app, ["show", str(run.path)], env={"COLUMNS": "400"})
    assert said in " ".join(shown.output.split())
    listed = CliRunner().invoke(app, ["options", "task"], env={"COLUMNS": "400"})
    assert "trained on 1,908 pairs of the other direction, turned round: not on MTNT's" in " ".join(
        listed.output.split()
    )


def test_what_is_not_true_of_the_sample_is_not_said_of_it(task: Task, tiny_run: RunFactory) -> None:
    assert task.dataset.note
    assert "note" not in read_run_data(tiny_run("task=mtnt_reverse")).provenance


def test_a_note_is_no_part_of_a_runs_identity(tiny_run: RunFactory) -> None:
    plain = tiny_run("task=mtnt_reverse")
    assert tiny_run("task=mtnt_reverse", "task.dataset.note=otherwise").id == plain.id
