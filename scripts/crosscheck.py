"""BLEU of a finished run by the ``sacrebleu`` command, against what the run recorded.

PYTHONPATH=scripts python -m crosscheck RUN
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from gdo_cli.runs.find import find_run


def main(reference: str, results: str = "results") -> None:
    run = find_run(reference, results)
    rows = [row for row in run.predictions if row["part"] == "task/test"]
    with TemporaryDirectory() as folder:
        answers, texts = Path(folder, "answers.txt"), Path(folder, "texts.txt")
        for file, key in ((answers, "answer"), (texts, "predicted")):
            file.write_text("".join(" ".join(row[key].split()) + "\n" for row in rows), "utf-8")
        words = [sys.executable, "-m", "sacrebleu", str(answers), "-i", str(texts), "-m", "bleu", "-w", "6"]
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    recorded, score = run.final["task/bleu"], found["score"]
    print(f"{run.title}: {len(rows)} items, recorded {recorded:.6f}, sacrebleu {score:.6f}")
    if abs(score - recorded) > 1e-6:
        raise SystemExit("they differ")


if __name__ == "__main__":
    main(*sys.argv[1:])
