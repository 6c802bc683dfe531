"""What the commands share: arguments, how a run is found, and how mistakes are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from gdo_cli.support.errors import RunFailed, UserError, rank_zero_first
from gdo_cli.support.signals import Stopped
from gdo_cli.support.streams import harden_streams, lost_output

if TYPE_CHECKING:
    from gdo_cli.runs.record import RunResult

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Hydra overrides, e.g. task=scitail method=g_freeze train.lr=1e-4", show_default=False
    ),
]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", help="Folder of your own YAML, laid out like conf/.")
]
Force = Annotated[bool, typer.Option("--force", help="Start again even if the run is done or begun.")]
Results = Annotated[
    Path, typer.Option("--results", envvar="GDO_RESULTS_DIR", help="Folder that holds runs/ and figures/.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Path of a run, or a part of its name.")]
Markdown = Annotated[Path | None, typer.Option("--md", help="Write the table to this file too.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write the numbers to this file too.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]


def finished(name: str, results: Path) -> RunResult:
    """Return the run of that name; to be called before anything slow is imported."""
    from gdo_cli.runs.find import find_run

    return find_run(name, results)


def print_json(value: Any) -> None:
    """Print a value as ``--json`` promises: nothing else stands on standard output."""
    from gdo_cli.support.files import json_text

    typer.echo(json_text(value, indent=1))


@contextmanager
def messages() -> Iterator[None]:
    """A user's mistake is one message and exit code 2, and so is a file that the system refuses; a failed
    run, one message and 1; a signal, its own."""
    try:
        if not _here():
            raise UserError("the working directory has been deleted: cd to another one")
        with rank_zero_first():
            yield
    except UserError as error:
        _say("error:", *error.args)
        raise typer.Exit(2) from error
    except OSError as error:
        if error.filename is None:
            raise
        _say("error:", f"{error.filename}: {error.strerror}")
        raise typer.Exit(2) from error
    except RunFailed as error:
        _say("failed:", error)
        raise typer.Exit(1) from error
    except Stopped as stopped:
        _say("stopped", str(stopped).removeprefix("stopped "))
        raise typer.Exit(stopped.code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _here() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _say(word: str, *lines: object) -> None:
    from gdo_cli.support.console import errors, tell, visible

    tell(word, "red", str(lines[0]))
    for line in lines[1:]:
        errors.print(visible(str(line)), soft_wrap=True)


class Commands(TyperGroup):
    """Commands whose mistakes are told by :func:`messages`, and that no stream ends."""

    def main(self, *args: Any, **settings: Any) -> Any:
        harden_streams()
        try:
            return super().main(*args, **settings)
        except SystemExit as end:
            if not end.code and (reason := lost_output()):
                _say("error:", f"standard output: {reason}")
                raise SystemExit(2) from None
            raise

    def invoke(self, ctx: Any) -> Any:
        with messages():
            return super().invoke(ctx)
