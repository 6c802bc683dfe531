"""Claims about the machine around gdo: homes, folders and streams that are missing, full, closed or not
UTF-8; names with markup; numbers that JSON has no word for. In each case one line or clean text, the right
exit code, and nothing lost after a sealed run."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import TINY_RUN, recorded
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from gdo_cli.cli import tables
from gdo_cli.cli.app import app
from gdo_cli.cli.arguments import messages
from gdo_cli.evaluation.base_cache import base_evaluation
from gdo_cli.evaluation.evaluator import Evaluation
from gdo_cli.runs.folder import RunFolder
from gdo_cli.runs.record import RunRecord, RunResult, read_run
from gdo_cli.support.console import note, styled, visible, warn
from gdo_cli.support.errors import RunFailed, UserError
from gdo_cli.support.files import cache_dir, json_text, number, write_for_user
from gdo_cli.support.markdown import csv_text
from gdo_cli.support.signals import Stop

# ----------------------------------------------------------------------------------------------- homes


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No HOME, and a user whom the system does not know."""
    for name in ("HOME", "GDO_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"GDO_CACHE_DIR": "/own"}, "/own"),
        ({"GDO_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"GDO_CACHE_DIR": "relative/own"}, "relative/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/gdo"),
        ({"GDO_CACHE_DIR": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/gdo"),
        ({"GDO_CACHE_DIR": "/own", "XDG_CACHE_HOME": ""}, "/own"),
        ({}, f"{tempfile.gettempdir()}/gdo-12345"),
        ({"XDG_CACHE_HOME": ""}, f"{tempfile.gettempdir()}/gdo-12345"),
        ({"HOME": "/home/me"}, "/home/me/.cache/gdo"),
        ({"HOME": "/home/me", "GDO_CACHE_DIR": "~/own"}, "/home/me/own"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": ""}, "/home/me/.cache/gdo"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    homeless: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        homeless.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_the_cache_does_not_ask_for_a_home_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("GDO_CACHE_DIR", "/own")
    monkeypatch.setattr(Path, "home", none)
    assert cache_dir() == Path("/own")


# --------------------------------------------------------------------------------------------- streams


def gdo(*words: str, cwd: Path, shell: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """``gdo`` in a process of its own, as a shell starts it, with redirections behind it."""
    environment = {**os.environ, "GDO_RESULTS_DIR": "results", **variables}
    script = f'"$0" -m gdo_cli "$@" {shell}; exit ${{PIPESTATUS[0]}}'
    command = ["bash", "-c", script, sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    from gdo_cli.config.build import load_run
    from gdo_cli.experiment.run import run

    folder = tmp_path_factory.mktemp("sealed")
    run(load_run([*TINY_RUN, f"results_dir={folder / 'results'}"]))
    return folder


FULL = b"error: standard output: No space left on device\n"
COMMANDS = {"ls": ("ls",), "show": ("show", "seed0"), "help": ("--help",), "version": ("--version",)}


@pytest.mark.few(6)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        (">/dev/full", 2, FULL),
        ("2>/dev/full >/dev/null", 0, b""),
        (">/dev/full 2>/dev/full", 2, b""),
        (">&-", 0, b""),
        ("2>&- >/dev/null", 0, b""),
        (">&- 2>&- <&-", 0, b""),
        ("| true", 0, b""),
        ("| head -c 1 >/dev/null", 0, b""),
    ],
)
def test_a_stream_that_takes_nothing_ends_in_one_line_at_most(
    sealed: Path, command: str, shell: str, code: int, said: bytes
) -> None:
    done = gdo(*COMMANDS[command], cwd=sealed, shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", said)


@pytest.mark.few(2)
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437", "koi8-r", "shift_jis", "utf-8"])
def test_letters_that_a_stream_lacks_are_replaced(sealed: Path, encoding: str) -> None:
    done = gdo("show", "seed0", cwd=sealed, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert "task/loss ↓ ".encode(encoding, "replace").decode(encoding) in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_run_that_nobody_can_hear_is_made_all_the_same(tmp_path: Path) -> None:
    done = gdo("train", *TINY_RUN, cwd=tmp_path, shell=">/dev/full 2>/dev/full")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")
    (result,) = tmp_path.glob("results/runs/*/*/*/seed0/result.json")
    assert read_run(result.parent).record.steps == 4
    assert not (result.parent / "failed.json").exists()


@pytest.mark.slow
def test_a_run_ends_well_on_a_terminal_of_ascii(tmp_path: Path) -> None:
    done = gdo("train", *TINY_RUN, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"task/loss ?" in done.stdout
    done.stderr.decode("ascii")


@pytest.mark.parametrize("charset", ["latin-1", "ascii", "utf-8"])
def test_a_program_that_calls_the_command_line_has_replaced_letters_too(sealed: Path, charset: str) -> None:
    words = ["show", "seed0", "--results", str(sealed / "results")]
    result = CliRunner(charset=charset).invoke(app, words)
    assert (result.exit_code, result.exception) == (0, None)
    assert ("task/loss ↓" if charset == "utf-8" else "task/loss ?") in result.stdout


def test_a_signal_is_noted_though_standard_error_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(os, "write", gone)
    monkeypatch.setattr(os, "isatty", lambda number: True)
    stop = Stop()
    with stop.deferred():
        stop.handle(signal.SIGINT, None)
    assert stop.asked == signal.SIGINT


def on_terminal(*words: str, cwd: Path, **variables: str) -> tuple[int, str]:
    """What a command writes on a terminal of 80 columns, or of as many as COLUMNS says."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execve(sys.executable, [sys.executable, "-m", "gdo_cli", *words], {**os.environ, **variables})
    content = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            content += (block := os.read(terminal, 65536))
        except OSError:
            break
        if not block:
            break
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), content.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*(?<![0-9])(3[0-7]|4[0-7]|9[0-7])(?![0-9])[0-9;]*m")


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_a_mistake_is_red_where_colours_are_wanted(
    sealed: Path, variables: dict[str, str], coloured: bool
) -> None:
    code, text = on_terminal("show", "nothing", cwd=sealed, **variables)
    assert code == 2
    assert "nothing" in text
    assert bool(COLOUR.search(text)) == coloured


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": "xterm", "COLUMNS": "20"}])
def test_a_terminal_that_can_do_little_loses_nothing(sealed: Path, variables: dict[str, str]) -> None:
    code, text = on_terminal("ls", cwd=sealed, **variables)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "47.7 0.000 0.000" in " ".join(plain.split())
    first = "".join(line.split()[0] for line in plain.splitlines()[1:] if line.strip())
    assert "g_freeze" in (first if "COLUMNS" in variables else plain)


@pytest.mark.parametrize("variables", [{"FORCE_COLOR": "1"}, {}, {"TTY_COMPATIBLE": "1"}])
def test_no_bars_are_drawn_into_a_log(variables: dict[str, str]) -> None:
    code = (
        "from gdo_cli.support.console import Reporter\nwith Reporter('sft', 4) as reporter:\n"
        "    reporter.step(1, 0.5, 1.0)\n    reporter.evaluation(2, {'task/loss': 0.5})"
    )
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    plain = re.sub(rb"\x1b\[[0-9;]*m", b"", done.stderr)
    assert plain == b"     2  task/loss 0.500\n"


# ------------------------------------------------------------------------------------ names and markup

NAMES = [
    "[bold]x[/bold]",
    "[/]",
    "[/red]",
    "[link=x]y",
    ":warning: :key:",
    "a[0]",
    "[[x]]",
    "\\[x]",
    "“quotes” – and … 研究",
    "👩‍🔬 at 50 %s {}",
    "50 %(x)s",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunResult(Path("runs") / name, recorded({"method_label": name, "final": {f"{40 * 'a'}/b": 0.5}}))
    warn(name)
    note(name)
    tables.print_result(run)
    tables.print_remark(name)
    tables.print_completions([{"prompt": name, "base": f"{name}\n{name}"}])
    out, err = capsys.readouterr()
    assert err == f"warning {name}\n{name}\n"
    assert f"{name} on scitail, tiny" in " ".join(out.split())  # a title is as wide as its table
    assert f"runs/{name}" in out.splitlines()
    assert out.count(name) == 6


@pytest.mark.parametrize("error", [UserError, RunFailed])
@pytest.mark.parametrize(
    ("text", "shown"),
    [(name, name) for name in NAMES]
    + [("a\nb", "a\\nb"), ("a\r\nb", "a\\r\\nb"), ("\x1b[31mred", "\\x1b[31mred"), ("a\u2028b", "a\\u2028b")]
    + [("caf\udce9", "caf\\udce9"), ("\u202egnp.exe", "\\u202egnp.exe"), ("tab\tstop", "tab\\tstop")],
)
def test_a_mistake_is_one_line_whatever_it_names(
    error: type[Exception], text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as raised, messages():
        raise error(f"task={text}: unknown")
    code = 2 if error is UserError else 1
    assert raised.value.exit_code == code
    word = "error" if code == 2 else "failed"
    assert capsys.readouterr().err == f"{word}: task={shown}: unknown\n"


def test_a_mistake_that_is_a_list_has_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    error = UserError("2 of 2 points are impossible:", "  seed=\n1", "    no such seed")
    with pytest.raises(typer.Exit), messages():
        raise error
    assert capsys.readouterr().err == (
        "error: 2 of 2 points are impossible:\n  seed=\\n1\n    no such seed\n"
    )


@given(st.text())
def test_any_text_is_one_visible_line_and_nothing_else_is_changed(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    assert not set(shown) & set(map(chr, [*range(32), *range(0x7F, 0xA0)]))
    shown.encode()
    if text.isprintable():
        assert shown == text


@given(st.text(st.characters(exclude_categories=["C", "Z", "M"]), max_size=60))
def test_any_name_is_printed_as_it_is(name: str) -> None:
    stream = io.StringIO()
    drawn = Console(file=stream, markup=False, emoji=False, highlight=False, force_terminal=False)
    drawn.print(styled((name, "bold"), f" {name}"), soft_wrap=True)
    assert stream.getvalue() == f"{name} {name}\n"
    assert Text(name).plain == name


# --------------------------------------------------------------------------------------------- numbers


def strict(text: str) -> Any:
    """JSON as readers other than Python's take it."""

    def refuse(word: str) -> Any:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


NONE_OF_JSON = [math.nan, math.inf, -math.inf]


def same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))


@pytest.mark.parametrize("value", [*NONE_OF_JSON, 0.0, -0.0, 1e308, 5e-324, 0.1, True, 3])
def test_a_number_is_read_back_from_strict_json(value: float) -> None:
    found = number(strict(json_text({"a": [value]}))["a"][0])
    assert same(found, value)
    assert type(found) is type(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_whatever_is_written_is_strict_json(value: Any) -> None:
    strict(json_text(value))


@given(st.dictionaries(st.text(min_size=1), st.floats() | st.integers() | st.booleans(), max_size=5))
def test_any_metrics_are_read_back_from_a_record(metrics: dict[str, float]) -> None:
    content = RunRecord(id="0" * 8, seed=0, name={}, final=metrics).to_dict()
    final = RunRecord.from_dict(strict(json_text(content))).final
    assert final.keys() == metrics.keys()
    assert all(same(final[key], value) for key, value in metrics.items())


@given(st.text() | st.sampled_from(["NaN", "Infinity", "-Infinity", "null"]), st.floats())
def test_any_prediction_is_read_back(text: str, value: float) -> None:
    row = {"part": "task/test", "item": 0, "answer": text, "predicted": text, "loss": value}
    with tempfile.TemporaryDirectory() as folder:
        place = RunFolder(Path(folder))
        place.save_predictions([row])
        (found,) = RunResult(place.path, recorded({})).predictions
    assert same(found.pop("loss"), row.pop("loss"))
    assert found == row


@pytest.mark.parametrize("value", NONE_OF_JSON)
def test_metrics_are_read_back_as_they_came(value: float, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log({"kind": "train", "step": 1, "loss": 0.5, "grad_norm": value})
    folder.log({"kind": "evaluation", "step": 1, "a/b": 0.5, "a/b_se": value})
    folder.log({"kind": "rank", "step": 1, "layer": None})
    for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines():
        strict(line)
    train, evaluation, rank = RunResult(tmp_path, recorded({})).metrics
    assert same(train["grad_norm"], value)
    assert same(evaluation["a/b_se"], value)
    assert rank["layer"] is None


@pytest.mark.parametrize("value", NONE_OF_JSON)
def test_the_base_cache_gives_back_what_was_measured(value: float) -> None:
    class Asked:
        def fingerprint(self) -> str:
            return f"asked {value}"

    measured = Evaluation({"a/b": value}, [{"part": "a", "item": 0, "b": value, "answered": "NaN"}])
    first, again = (base_evaluation(Asked(), {}, lambda: measured) for _ in range(2))  # type: ignore[arg-type]
    assert first is measured
    assert again is not measured
    assert str(again) == str(measured)


@pytest.mark.parametrize("value", NONE_OF_JSON)
def test_an_analysis_is_strict_json(value: float, tmp_path: Path) -> None:
    run = RunResult(tmp_path, recorded({}))
    run.save_analysis("drift", {"se": value})
    strict((tmp_path / "analysis" / "drift.json").read_text("utf-8"))


@given(st.lists(st.floats(), min_size=1, max_size=4))
def test_a_table_of_numbers_has_no_words_in_it(values: list[float]) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{str(i): value for i, value in enumerate(values)}])))
    for written, value in zip(row.values(), values, strict=True):
        assert float(written) == value if math.isfinite(value) else written == ""


def test_a_run_on_one_item_writes_strict_json_and_is_shown(tmp_path: Path) -> None:
    words = ("evaluation.items=1", "evaluation.final_items=1", "evaluation.kl_prompts=1")
    done = CliRunner().invoke(
        app, ["train", *TINY_RUN, *words, "probe.winogrande.items=1", f"results_dir={tmp_path}"]
    )
    assert done.exit_code == 0, done.output
    (folder,) = tmp_path.glob("runs/*/*/*/seed0")
    strict((folder / "result.json").read_text("utf-8"))
    for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        strict(line)
    assert math.isnan(read_run(folder).final["winogrande/likelihood_se"])
    for command in (["show", "seed0"], ["ls"], ["ls", "--mean"]):
        shown = CliRunner().invoke(app, [*command, "--results", str(tmp_path)])
        assert (shown.exit_code, "nan" in shown.output) == (0, False)


def test_a_file_for_the_user_goes_through_a_link_and_into_a_pipe_and_replaces_neither(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for text in ("first", "second"):
        write_for_user(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == text
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_for_user(tmp_path / "pipe", "words")
    assert os.read(reader, 99) == b"words"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
def test_a_device_that_is_full_is_told_and_stays_a_device() -> None:
    with pytest.raises(UserError, match="/dev/full: cannot be written"):
        write_for_user(Path("/dev/full"), "words")
    assert Path("/dev/full").is_char_device()


def test_a_link_that_leads_to_itself_becomes_the_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    write_for_user(tmp_path / "loop", "words")
    assert (tmp_path / "loop").read_text() == "words"
