"""Claims about text in tokens: made when drawn, the too long left out, control tokens."""

import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import RunFactory
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gdo_cli.config.build import rebuild
from gdo_cli.experiment.reopen import build_evaluator, read_run_data
from gdo_cli.lm.markup import Markup
from gdo_cli.lm.tokens import Encoder, LazilyEncoded, Query
from gdo_cli.models.loading import Loaded
from gdo_cli.runs.find import find_runs
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity
from gdo_cli.tasks.base import Example

RESULTS = Path(__file__).resolve().parent.parent / "results"


def test_queries_encoded_one_by_one_are_those_encoded_together(tiny_loaded: Loaded) -> None:
    encoder = Encoder.of(tiny_loaded.tokenizer, [])
    queries = [Query("A cat is", " an animal"), Query("  ", "\n"), Query("Ünïcode 🐈", " yes")]
    lazy = LazilyEncoded(encoder, queries)
    assert len(lazy) == 3
    assert [lazy[i] for i in range(3)] == lazy[:] == encoder.many(queries)


@pytest.mark.few(2)
@pytest.mark.parametrize("max_length", [60, 80, 84, 400])
def test_the_too_long_are_those_of_a_full_count(
    max_length: int, tiny_run: RunFactory, tiny_loaded: Loaded
) -> None:
    config = tiny_run(f"train.max_length={max_length}")
    encoder = Encoder.of(tiny_loaded.tokenizer, [])
    material = read_run_data(config)
    every = encoder.many([Query(e.prompt, e.answer) for e in material.train])
    short = [q for q in every if len(q) + 1 <= max_length]
    if len(short) < 0.95 * len(every):
        with pytest.raises(UserError, match=f"{len(every) - len(short)} of {len(every)} train examples"):
            build_evaluator(config, material, encoder)
        return
    suite = build_evaluator(config, material, encoder)
    assert suite.train[:] == short
    assert suite.provenance["train_too_long"] == len(every) - len(short)


# ----------------------------------------------------------------------------- control tokens in text

CORPUS = [
    "the cat sat on the mat",
    "a plain text with < and > and / and [ and ] and unk UNK CLS SEP",
    "u n k U N K C L S E P < > / [ ] <unk> [UNK] [CLS] [SEP] <s> </s>",
] * 40
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
BRACKETS = {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}


def trained_tokenizer(model: Any, pre: Any, trainer: Any, names: dict[str, str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """Like Gemma's: bytes for what the vocabulary lacks, and no pre-tokens."""
    characters = sorted({c for text in CORPUS for c in text.replace(" ", "▁")})
    pieces = [*SPECIAL.values(), *(f"<0x{n:02X}>" for n in range(256)), *characters, "▁t", "▁c"]
    merges = [("▁", "t"), ("▁", "c")]
    model = models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[*SPECIAL.values()], initial_alphabet=alphabet, show_progress=False
    )
    return trained_tokenizer(models.BPE(), pre_tokenizers.ByteLevel(False), trainer, SPECIAL)


def unigram() -> PreTrainedTokenizerFast:
    """Like T5's, whose model itself looks names of control tokens up."""
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=[*SPECIAL.values()], unk_token="<unk>", show_progress=False
    )
    return trained_tokenizer(models.Unigram(), pre_tokenizers.Metaspace(), trainer, SPECIAL)


def word_piece(pre: Any) -> PreTrainedTokenizerFast:
    characters = string.printable.strip()
    pieces = [*BRACKETS.values(), *characters, *(f"##{c}" for c in characters)]
    model = models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **BRACKETS)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "SentencePiece BPE": sentencepiece_bpe,
    "byte-level BPE": byte_level,
    "Unigram": unigram,
    "WordPiece": lambda: word_piece(pre_tokenizers.BertPreTokenizer()),
    "WordPiece of words": lambda: word_piece(pre_tokenizers.WhitespaceSplit()),
    "in Python": ByT5Tokenizer,
}


@pytest.fixture(params=TOKENIZERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder.of(TOKENIZERS[request.param](), [])


def control_ids(encoder: Encoder) -> set[int]:
    return set(encoder.tokenizer.all_special_ids)


def test_names_of_control_tokens_in_text_are_text(encoder: Encoder) -> None:
    for name in encoder.tokenizer.all_special_tokens:
        for text in (name, f"the cat {name} sat", f"the{name}{name}mat", f"{name}the", f"< {name}>"):
            ids = encoder.plain(text)
            assert control_ids(encoder).isdisjoint(ids), text
            said = encoder.tokenizer.decode(ids)
            assert re.sub(r"\s|##|▁|Ġ", "", said) == text.replace(" ", "")


def test_names_of_control_tokens_stand_for_these_where_they_are_asked_to(encoder: Encoder) -> None:
    for name in encoder.tokenizer.all_special_tokens:
        query = Query(Markup(f"the cat {name}"), Markup(f" {name} sat"))
        encoded = encoder(query)
        number = encoder.tokenizer.convert_tokens_to_ids(name)
        assert encoded.context.count(number) == 1 + (encoded.context[0] == number)
        assert encoded.continuation.count(number) == 1


def test_text_without_names_of_control_tokens_is_what_it_always_was(encoder: Encoder) -> None:
    for text in ("the cat sat", "a < s > unk [ SEP ]", "  two  spaces ", "line\nbreak", ""):
        assert encoder.plain(text) == encoder.plain(Markup(text))
        assert encoder.plain(text) == encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_unknown_token_still_stands_for_what_the_vocabulary_lacks() -> None:
    encoder = Encoder.of(word_piece(pre_tokenizers.BertPreTokenizer()), [])
    unknown = encoder.tokenizer.unk_token_id
    assert encoder.plain("the ☃ sat").count(unknown) == 1
    assert encoder.plain("the ☃ [UNK] sat").count(unknown) == 1


def test_queries_of_both_kinds_keep_their_order(encoder: Encoder) -> None:
    name = encoder.tokenizer.eos_token
    written = [Markup(f"the {name}"), f"the {name}", Markup(f"the {name}") + f" {name}"]
    queries = [Query(written[n % 3], f" cat{n}", n % 2 == 0) for n in range(7)]
    assert encoder.many(queries) == [encoder(query) for query in queries]


def test_rows_of_tasks_and_probes_name_no_control_token(tiny_run: RunFactory, tiny_loaded: Loaded) -> None:
    names = tiny_loaded.tokenizer.all_special_tokens
    assert "<eos>" in names
    config = tiny_run("probe=[winogrande,perplexity,lambada]")
    row = {"premise": "A <eos> is", "hypothesis": "<bos> it", "label": "neutral"}
    asked = [config.task.example(row).query([Example("shown <eos>", " <bos>")])]
    asked += config.probe["lambada"].queries({"text": "it is <eos> here <eos>"}, [])
    asked += config.probe["perplexity"].queries({"text": "<pad> and <eos> " * 40}, [])
    encoder = Encoder.of(tiny_loaded.tokenizer, [])
    for query in encoder.many(asked):
        assert control_ids(encoder).isdisjoint(query.context[1:] + query.continuation)


def test_a_user_s_own_templates_may_name_control_tokens(
    tiny_run: RunFactory, tiny_loaded: Loaded, tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"q": "why", "a": "so"}\n' * 30)
    words = ["task=jsonl", f"task.path={tmp_path / 'mine.jsonl'}", "task.prompt='<bos>{q}<eos>'"]
    example = tiny_run(*words, "task.completion='{a}<pad>'").task.example({"q": "<eos> <bos>", "a": "<pad>"})
    encoder = Encoder.of(tiny_loaded.tokenizer, [])
    for shown in ([], [example], [example] * 3):
        encoded = encoder(example.query(shown))
        assert encoded.context.count(encoder.eos_id) == 1 + len(shown)
        assert encoded.context.count(encoder.tokenizer.bos_token_id) == 1 + len(shown)
        assert encoded.continuation.count(encoder.tokenizer.pad_token_id) == 1
        text = "".join([*(f"{e.prompt}{e.answer}\n\n" for e in shown), example.prompt + example.answer])
        assert encoder.tokenizer.decode(encoded.context + encoded.continuation) == text


def test_a_run_recorded_before_reads_control_tokens_as_it_did(
    tiny_run: RunFactory, tiny_loaded: Loaded
) -> None:
    before = next(run for run in find_runs(RESULTS) if "perplexity" in run.record.config["probe"])
    assert "control_tokens" not in before.record.config["probe"]["perplexity"]
    now = tiny_run("probe=[winogrande,perplexity]").probe["perplexity"]
    assert identity(now)["control_tokens"] is False
    encoder = Encoder.of(tiny_loaded.tokenizer, [])
    for probe, times in ((rebuild(before, None).probe["perplexity"], 100), (now, 0)):
        (query,) = probe.queries({"text": "<eos> " * 100}, [])
        assert encoder(query).continuation.count(encoder.eos_id) == times
