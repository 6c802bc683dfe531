"""Claims about ``gdo demo``: what it shows of two runs."""

from __future__ import annotations

from pathlib import Path

from gdo_cli.commands.demo import Demo
from gdo_cli.config.grid import load_grid
from gdo_cli.runs.find import find_run

RESULTS = Path(__file__).resolve().parent.parent / "results"


def test_the_table_and_the_sentence_say_what_the_runs_recorded() -> None:
    sft, grown = (find_run(f"{name}/seed0", RESULTS) for name in ("sft-85690a98", "g_freeze-4e9ca767"))
    demo = Demo([sft, grown])
    assert demo.rows() == [
        ["base model", "0.000", "1.000", "3.289"],
        ["SFT", "0.776", "0.636", "3.649"],
        ["G-Freeze", "0.775", "0.938", "3.291"],
    ]
    assert "guessing: 0.608" in demo.sentence()
    assert "SFT 64%, G-Freeze 94%" in demo.sentence()
    assert demo.next_commands()[0] == f"gdo check {grown.path}"


def test_it_is_full_fine_tuning_and_growth_on_the_bundled_sample() -> None:
    points = load_grid(["experiment=demo"])
    assert [config.name["method"] for _, config in points] == ["sft", "g_freeze"]
    assert {config.data.source for _, config in points} == {"sample"}
