"""One of the processes that test_distributed.py starts: runs every point of a JSON list of overrides."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gdo_cli import experiment
from gdo_cli.config import load_run

if __name__ == "__main__":
    for overrides in json.loads(Path(sys.argv[1]).read_text()):
        experiment.run(load_run(overrides))
