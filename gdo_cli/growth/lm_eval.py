"""lm-evaluation-harness with grown adapters, which it has no hook to learn of by itself.

python -m gdo_cli.growth.lm_eval run --model hf --model_args pretrained=BASE,peft=ADAPTER --tasks arc_easy
"""

from __future__ import annotations

import gdo_cli.growth  # noqa: F401 - PEFT learns the method


def main() -> None:
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
