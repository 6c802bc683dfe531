"""Run PEFT's own tests, of the version that is installed, against the growth tuner.

    python -m peft_suite [SUITE …] [--source FOLDER]

Without names every suite runs, one process each. What came of it is written to
``results/benchmarks/peft_suite.json``, beside suites that ran before with the same versions. It fails if a
test fails that ``exceptions.yaml`` does not list, and if one passes that is listed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gdo_cli.support.files import write_atomically
from peft_suite.models import write_models
from peft_suite.plugin import OUTCOMES, exceptions
from peft_suite.upstream import SOURCE

HERE = Path(__file__).parent.resolve()
SUITES = sorted(file.stem for file in (HERE / "suites").glob("test_*.py"))
RESULT = Path("results", "benchmarks", "peft_suite.json")
BUILD = Path("build", "peft_suite")
COLUMNS = ("passed", "xfailed", "skipped", "failed", "error")


def main() -> int:
    parser = argparse.ArgumentParser(prog="peft_suite", description="PEFT's own tests of the growth tuner")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all of them")
    parser.add_argument("--source", type=Path, help="an unpacked source distribution of PEFT")
    asked = parser.parse_args()
    if unknown := {*asked.suites} - {*SUITES}:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; choose of {', '.join(SUITES)}")
    source = (asked.source or source_distribution(version("peft"))).resolve()
    with TemporaryDirectory() as folder:
        write_models(Path(folder))
        numbers = {name: run(name, source, Path(folder)) for name in asked.suites or SUITES}
    print(table(numbers))
    problems = [told for name, suite in numbers.items() for told in problems_of(name, suite)]
    print("\n".join(problems))
    before = json.loads(RESULT.read_text("utf-8")) if RESULT.is_file() else {}
    write_atomically(RESULT, (json.dumps(record(numbers, before), indent=1) + "\n").encode())
    return 1 if problems else 0


def source_distribution(wanted: str) -> Path:
    """Return the folder with PEFT's source; pip brings it where it is not there yet."""
    folder = BUILD / f"peft-{wanted}"
    if not (folder / "tests").is_dir():
        BUILD.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        only_that = ["--no-deps", "--no-binary", "peft", "--dest", str(BUILD), f"peft=={wanted}"]
        subprocess.run([*pip, *only_that], check=True)
        with tarfile.open(BUILD / f"peft-{wanted}.tar.gz") as packed:
            packed.extractall(BUILD, filter="data")
    return folder


def run(suite: str, source: Path, models: Path) -> dict[str, Any]:
    """Run one suite in a process of its own, where the models lie; return how many tests ended how."""
    outcomes = models / f"{suite}.json"
    path = [str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        SOURCE: str(source),
        OUTCOMES: str(outcomes),
        "HF_HUB_OFFLINE": "1",
        "PEFT_DEBUG_WITH_TORCH_COMPILE": "1",  # PEFT leaves them out because they are slow
    }
    options = [
        "-c",
        os.devnull,
        "--rootdir",
        str(models),
        "-p",
        "peft_suite.plugin",
        "-p",
        "no:cacheprovider",
    ]
    shown = ["-q", "--tb=short", "--show-capture=no", "--no-header", "-rfE", "--disable-warnings"]
    print(f"{suite}:", flush=True)
    command = [sys.executable, "-m", "pytest", *options, *shown, str(HERE / "suites" / f"{suite}.py")]
    subprocess.run(command, cwd=models, env=environment, check=False)
    if not outcomes.is_file():
        return dict.fromkeys(COLUMNS, 0) | {"error": 1, "reasons": {}}
    numbers: dict[str, Any] = json.loads(outcomes.read_text("utf-8"))
    return numbers


def problems_of(name: str, suite: dict[str, Any]) -> list[str]:
    """Return a line for what makes the target fail."""
    told = []
    if wrong := suite["failed"] + suite["error"]:
        told.append(f"{name}: {wrong} failed that are not listed, or passed that are")
    for pattern, reason in exceptions(name).items():
        if reason not in suite["reasons"]:
            told.append(f"{name}: no test fails as listed by {pattern!r}")
    return told


def table(numbers: dict[str, dict[str, Any]]) -> str:
    """Return a line for each suite, and one for all."""
    total: Counter[str] = Counter()
    lines = [f"{'':32}{'passed':>9}{'listed':>9}{'skipped':>9}{'wrong':>9}"]
    for name, suite in numbers.items():
        total.update({column: suite[column] for column in COLUMNS})
        lines.append(_line(name, suite))
    return "\n".join([*lines, _line("all", total)])


def _line(name: str, suite: dict[str, Any] | Counter[str]) -> str:
    cells = (suite["passed"], suite["xfailed"], suite["skipped"], suite["failed"] + suite["error"])
    return f"{name:32}" + "".join(f"{cell:9}" for cell in cells)


def record(numbers: dict[str, dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """Return what is written: versions, and for each suite its numbers with the reasons of those listed."""
    versions = {name: version(name) for name in ("peft", "transformers", "torch")}
    suites: dict[str, Any] = before["suites"] if before.get("versions") == versions else {}
    for name, suite in numbers.items():
        suites[name] = {
            "passed": suite["passed"],
            "failed as listed": suite["xfailed"],
            "skipped by PEFT": suite["skipped"],
            "wrong": suite["failed"] + suite["error"],
            "listed": suite["reasons"],
        }
    return {"versions": versions, "suites": dict(sorted(suites.items()))}


if __name__ == "__main__":
    sys.exit(main())
