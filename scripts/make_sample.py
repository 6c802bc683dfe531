"""Write the small bundled sample: one folder a data set, one JSON Lines file a split.

The rows have the field names, order and types of the public data sets they stand in for, so that
code can be run and tested without a download. Their text is not taken from those data sets: it
comes from the templates and word lists in `sample/`, written for this project. Its stories and
articles are invented. The generator is seeded: two runs write the same bytes.

    python scripts/make_sample.py [--out gdo_cli/data/sample]
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

from sample.common import Splits
from sample.mathqa import mathqa
from sample.piqa import piqa
from sample.probes import arc_easy, lambada
from sample.qasc import qasc
from sample.scitail import scitail
from sample.translation import mtnt, multi30k_en_fr
from sample.wikitext2 import wikitext2
from sample.winogrande import winogrande

GENERATORS: list[Callable[[random.Random], Splits]] = [
    scitail,
    qasc,
    mathqa,
    mtnt,
    multi30k_en_fr,
    winogrande,
    arc_easy,
    lambada,
    piqa,
    wikitext2,
]


def write(out: Path) -> None:
    """Write every split of every data set below `out`."""
    for generator in GENERATORS:
        name = generator.__name__
        # A seed of its own lets one data set change without disturbing the others.
        for split, rows in generator(random.Random(f"gdo sample {name}")).items():
            path = out / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Bytes, not text: the line ends must not depend on the platform.
            lines = (json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows)
            path.write_bytes("".join(lines).encode())


def main() -> None:
    default = Path(__file__).resolve().parent.parent / "gdo_cli" / "data" / "sample"
    parser = argparse.ArgumentParser(description="write the bundled sample data")
    parser.add_argument("--out", type=Path, default=default, help="where to write it")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
