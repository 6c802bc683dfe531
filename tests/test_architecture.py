"""What ARCHITECTURE.md promises of the code's layout. The direction of imports is kept by `make lint`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gdo_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "peft", "datasets", "wandb", "accelerate"}
# What a user of growth alone need not have.
APPLICATION = {"hydra", "omegaconf", "typer", "datasets", "wandb", "matplotlib", "sacrebleu"}


def imported(*modules: str) -> set[str]:
    """What a fresh interpreter has imported when it has imported these."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def in_packages(*names: str) -> list[str]:
    files = [file for name in names for file in sorted((PACKAGE / name).glob("*.py"))]
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files
    ]


def test_the_package_has_few_rooms_at_its_top() -> None:
    entries = [entry for entry in PACKAGE.iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= 20, sorted(entry.name for entry in entries)


def test_a_module_fits_one_sitting() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in MODULES}
    assert {name: n for name, n in lengths.items() if n > 350} == {}


def test_the_init_of_a_package_is_its_docstring() -> None:
    """But for growth, which PEFT has to hear of, and the package itself, which sets up torch's allocator."""
    files = [file for file in MODULES if file.name == "__init__.py"]
    own = [file for file in files if len(ast.parse(file.read_text()).body) > 1]
    assert own == [PACKAGE / "__init__.py", PACKAGE / "growth/__init__.py"]


def test_reading_settings_and_results_and_drawing_figures_needs_no_torch() -> None:
    names = in_packages("config", "runs", "stats", "tasks", "probes", "support", "data", "figures")
    assert not imported(*names) & HEAVY


@pytest.mark.slow  # it imports torch anew; `make lint` keeps the same of what growth itself imports
def test_growth_is_a_library_without_the_application() -> None:
    assert not imported("gdo_cli.growth", "gdo_cli.growth.folding") & APPLICATION


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "scripts/study/README.md"])
def test_every_file_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    named = set(re.findall(r"`([\w/.-]+\.(?:py|yaml|html|toml))`", text)) - {"x.py", "x.yaml"}
    places = (
        ROOT,
        PACKAGE,
        PACKAGE / "commands",
        (ROOT / document).parent,
        *(p for p in PACKAGE.iterdir() if p.is_dir()),
    )
    wanted = {name for name in named if "/x." not in name}
    assert {name for name in wanted if not any((place / name).exists() for place in places)} == set()
