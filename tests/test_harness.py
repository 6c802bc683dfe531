"""Claims about tasks of lm-evaluation-harness as probes: the same answers, item by item, as gdo's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import RunFactory

from gdo_cli.config.build import load_run
from gdo_cli.experiment.reopen import build_evaluator, read_run_data
from gdo_cli.experiment.run import run
from gdo_cli.lm.tokens import Encoder
from gdo_cli.models.loading import Loaded
from gdo_cli.probes.lm_eval import LMEval
from gdo_cli.support.errors import UserError

pytest.importorskip("lm_eval", reason="lm-eval comes with an extra")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TASK = r"""
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {file}}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\nAnswer:"
doc_to_choice: "{{{{options}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two tasks on questions of one's own."""
    rows = [
        {
            "question": f"Which comes after {n}?",
            "options": [f"{n + 1}", f"number {n}", "none"],
            "answer": n % 3,
        }
        for n in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    for name in ("own_one", "own_two"):
        text = TASK.format(name=name, file=tmp_path / "rows.jsonl")
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    return tmp_path


def words(folder: Path, tasks: str, metrics: str = "acc") -> list[str]:
    given = [f"probe.lm_eval.tasks=[{tasks}]", f"probe.lm_eval.metrics=[{metrics}]"]
    return ["probe=[winogrande,choices,lm_eval]", *given, f"probe.lm_eval.include_path={folder / 'tasks'}",
            f"probe.choices.path={folder / 'rows.jsonl'}"]  # fmt: skip


def test_every_item_comes_out_as_with_the_probe_of_gdos_own(tiny_run: RunFactory, folder: Path) -> None:
    contract = "keep.tolerances={lm_eval/acc: 0.5, choices: 0.5}"
    done = run(tiny_run("method=sft", *words(folder, "own_one", "acc,acc_norm"), contract))

    def got(part: str, key: str) -> list[float]:
        return [row[key] for row in done.predictions if row["part"] == part]

    assert len(got("lm_eval", "acc")) == 12
    assert got("lm_eval", "acc") == got("choices", "likelihood")
    assert got("lm_eval", "acc_norm") == got("choices", "likelihood_norm")
    assert done.final["lm_eval/acc"] == done.final["choices/likelihood"]
    assert done.record.data["probe/lm_eval"]["items"] == 12


def test_of_several_tasks_each_metric_bears_the_tasks_name(tiny_run: RunFactory, folder: Path) -> None:
    config = tiny_run("method=sft", *words(folder, "own_one,own_two"), "probe.lm_eval.items=5")
    assert config.probe["lm_eval"].measures == ("own_one_acc", "own_two_acc")
    done = run(config)
    assert {"lm_eval/own_one_acc", "lm_eval/own_two_acc"} <= done.final.keys()
    assert len([row for row in done.predictions if row["part"] == "lm_eval"]) == 10


@pytest.mark.parametrize(
    ("tasks", "metrics", "told"),
    [("own_three", "acc", "own_three"), ("own_one", "accuracy", "no accuracy.*did you mean 'acc'")],
)
def test_what_there_is_not_is_one_message(
    tiny_run: RunFactory, folder: Path, tasks: str, metrics: str, told: str
) -> None:
    config = tiny_run("method=sft", *words(folder, tasks, metrics))
    with pytest.raises(UserError, match=told):
        run(config)


def test_a_task_whose_data_cannot_be_had_is_told_before_anything_slow(
    tiny_run: RunFactory, tiny_loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    config = tiny_run("probe=[winogrande,lm_eval]", "probe.lm_eval.tasks=[hellaswag]")
    with pytest.raises(UserError, match=r"probe.lm_eval.tasks=\[hellaswag\].*from the hub"):
        build_evaluator(config, read_run_data(config), Encoder.of(tiny_loaded.tokenizer, []))


def test_tasks_must_be_named() -> None:
    with pytest.raises(UserError, match="name tasks"):
        load_run(["model=tiny", "data=sample", "probe=lm_eval"])
    with pytest.raises(UserError, match="name metrics"):
        LMEval(tasks=["a"], metrics=[])
