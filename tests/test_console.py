"""Claims about notices: one logger, which looks on a terminal as it always has."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from gdo_cli.support import console
from gdo_cli.support.console import label_lines, note, silence, warn


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The logger as a user of the library finds it, put back afterwards."""
    log = logging.getLogger("gdo")
    handlers, level = log.handlers[:], log.level
    yield log
    log.handlers[:] = handlers
    log.setLevel(level)
    console.console.quiet = console.errors.quiet = False


class Kept(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelname, record.getMessage()))


def speak() -> None:
    warn("[bold]50 %s[/] of it")
    note("as [x] is")


def test_notices_stand_on_standard_error_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    speak()
    assert capsys.readouterr() == ("", "warning [bold]50 %s[/] of it\nas [x] is\n")


def test_on_a_terminal_a_warning_is_yellow_and_a_note_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    drawn = Console(file=terminal, force_terminal=True, color_system="standard")
    monkeypatch.setattr(console, "errors", drawn)
    speak()
    assert terminal.getvalue() == ("\x1b[1;33mwarning\x1b[0m [bold]50 %s[/] of it\n\x1b[2mas [x] is\x1b[0m\n")


def test_a_user_of_the_library_routes_notices(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept()
    logger.handlers[:] = [kept]
    speak()
    assert kept.said == [("WARNING", "[bold]50 %s[/] of it"), ("INFO", "as [x] is")]
    assert capsys.readouterr() == ("", "")


def test_a_user_of_the_library_silences_notices(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.setLevel(logging.WARNING)
    speak()
    assert capsys.readouterr().err == "warning [bold]50 %s[/] of it\n"


def test_what_was_set_before_gdo_is_imported_stays() -> None:
    code = (
        "import logging; log = logging.getLogger('gdo'); log.setLevel('ERROR'); own = logging.NullHandler()\n"
        "log.addHandler(own); import gdo_cli.support.console\n"
        "assert (log.handlers, log.level, log.propagate) == ([own], logging.ERROR, True)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_handler_of_the_root_does_not_say_it_twice(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Kept()
    logging.getLogger().addHandler(kept)
    try:
        speak()
    finally:
        logging.getLogger().removeHandler(kept)
    assert kept.said == []
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_process_that_is_not_the_first_says_nothing_to_anyone(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept()
    logger.addHandler(kept)
    silence()
    speak()
    assert (kept.said, capsys.readouterr()) == ([], ("", ""))


def test_after_a_label_the_standard_streams_are_those_of_the_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        passing = io.StringIO()
        patch.setattr(sys, "stderr", passing)
        with label_lines("k=3"):
            speak()
    passing.close()
    speak()
    assert capsys.readouterr().err == "warning [bold]50 %s[/] of it\nas [x] is\n"


def test_the_lines_of_a_point_of_a_sweep_bear_its_label(capsys: pytest.CaptureFixture[str]) -> None:
    with label_lines("k=3"):
        speak()
    assert capsys.readouterr().err == "[k=3] warning [bold]50 %s[/] of it\n[k=3] as [x] is\n"
