"""What metrics take for words: sacrebleu's tokenizers, and texts in which that cannot be right."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from statistics import mean

from gdo_cli.support.errors import UserError, first_line

TOKENIZERS = (
    "13a",
    "intl",
    "zh",
    "char",
    "none",
    "ja-mecab",
    "ko-mecab",
    "flores101",
    "flores200",
    "spBLEU-1K",
)
SMOOTHING = ("exp", "floor", "add-k", "none")
_NEEDS = {"ja-mecab": "'sacrebleu[ja]'", "ko-mecab": "'sacrebleu[ko]'"}
# Scripts written without spaces, and letters that few words of theirs exceed: Han, kana and bopomofo; Tibetan
# and those of South-East Asia.
_EAST_ASIAN = "\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_SOUTH_EAST_ASIAN = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"
)
_UNSPACED = ((re.compile(f"[{_EAST_ASIAN}]+"), 3), (re.compile(f"[{_SOUTH_EAST_ASIAN}]+"), 10))


def require_tokenizer(name: str) -> None:
    """Raise a UserError where sacrebleu cannot have a tokenizer without fetching something."""
    from sacrebleu import BLEU, SACREBLEU_DIR
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS

    if model := SPM_MODELS.get(name):
        file = os.path.join(SACREBLEU_DIR, "models", model["url"].rpartition("/")[2])  # noqa: PTH118
        if not os.path.exists(file):  # noqa: PTH110
            raise UserError(
                f"task.tokenize={name}: needs a model that is not here, and none is fetched unasked: "
                f"save {model['url']} as {file}"
            )
    try:
        BLEU(tokenize=name)
    except (ImportError, RuntimeError, OSError) as error:
        needs = _NEEDS.get(name, "sentencepiece")
        raise UserError(f"task.tokenize={name}: {first_line(error)} (pip install {needs})") from error


def doubt(words: Callable[[str], Sequence[str]], references: Sequence[str]) -> str | None:
    """Return why words are not told apart in these references, if they are not.

    Args:
        words: what a metric counts as the words of a text.
    """
    unspaced = [text for text in references if any(script.search(text) for script, _ in _UNSPACED)]
    lengths = [
        len(run) / usual
        for text in unspaced
        for word in words(text)
        for script, usual in _UNSPACED
        for run in script.findall(word)
    ]
    if 2 * len(unspaced) < len(references) or not lengths or mean(lengths) <= 1:
        return None
    return (
        f"{len(unspaced)} of {len(references)} references are in a script that puts no spaces between words"
    )
