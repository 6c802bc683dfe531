"""Unusual tokenizers, chats, rows, terminals and scores, each with the value that is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_tokenizers import byte_level, encoder_of
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import GPTNeoXJapaneseTokenizer, MyT5Tokenizer, PreTrainedTokenizerFast

from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.data.dataset import RowError
from gdo_cli.data.overlap import repeated
from gdo_cli.data.rows import read_jsonl
from gdo_cli.evaluation.run_data import read_data
from gdo_cli.lm.tokens import Encoder, Query
from gdo_cli.stats.metrics import METRICS
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.jsonl import JSONL

# ------------------------------------------------------------------------------------------------- chats

TURN = "{% for m in messages %}<|start|>{{ m.role }}\n"
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
THINKS = (
    TURN
    + "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
    + END
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
CHANNEL = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}/final{% endif %}: "
    "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
NO_PROMPT = TURN + "{{ m.content }}<|im_end|>\n{% endfor %}"
SAID = (("user", "Is it?"), ("assistant", "It is."), ("user", "Why?"), ("assistant", "So."))


def with_template(template: str) -> Encoder:
    tokenizer = byte_level(None, {"bos_token": "<s>", "eos_token": "<|im_end|>"})
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|start|>", special=True)]})
    tokenizer.chat_template = template
    return Encoder.of(tokenizer, [])


@pytest.mark.parametrize("template", [TURN + "{{ m.content }}" + END, THINKS, INST, CHANNEL, NO_PROMPT])
def test_question_and_answer_are_the_whole_chat_of_the_template(template: str) -> None:
    encoder = with_template(template)
    tokenizer = encoder.tokenizer
    messages = [{"role": role, "content": content} for role, content in SAID]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = encoder(Query("", "", turns=SAID))
    tokens = [*encoded.context, *encoded.continuation, encoder.eos_id]
    expected = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokens == [tokenizer.bos_token_id, *expected[: len(tokens) - 1]]
    assert tokenizer.decode(encoded.continuation).strip() == "So."


def test_a_space_between_prompt_and_answer_is_the_answer_s() -> None:
    encoder = with_template(INST)
    encoded = encoder(Query("", "", turns=SAID))
    assert encoder.tokenizer.decode(encoded.context).endswith("[/INST]")
    assert encoder.tokenizer.decode(encoded.continuation) == " So."


@pytest.mark.parametrize(
    "what",
    ["m.content | upper", "m.content[:3]", "m.content.split('</t>')[-1]", "m.content | length ~ m.content"],
)
def test_a_template_that_changes_what_is_said_is_refused(what: str) -> None:
    encoder = with_template(TURN + "{{ " + what + " }}" + END)
    with pytest.raises(
        UserError, match=r"changes what is said in a chat of user, assistant, user, assistant"
    ):
        encoder(Query("", "", turns=(SAID[0], ("assistant", "<t>Hm</t>It is."), *SAID[2:])))


# ------------------------------------------------------------------------------------------- line breaks


def renamed_break() -> PreTrainedTokenizerFast:
    """A line break called ``▃``, as CPM has it."""
    words = {w: i for i, w in enumerate(["<unk>", "</s>", "▃", "▂", *"abcdefgh."])}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("\n", "▃"), normalizers.Replace(" ", "▂")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▃", "isolated")
    steps = [decoders.Replace("▃", "\n"), decoders.Replace("▂", " "), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def neox_japanese(folder: Path) -> GPTNeoXJapaneseTokenizer:
    """A line break that is ``<BR>`` in the vocabulary, nothing when decoded alone, and called ``\\n``."""
    named = [
        "<|endoftext|>",
        "<|startoftext|>",
        "<SP>",
        "<BR>",
        "<TAB>",
        "<BLOCK>",
        "<KIGOU>",
        "<U2000U2BFF>",
    ]
    words = [*named, *(f"<|byte{n}|>" for n in range(256)), *"abd"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "emoji.json").write_text('{"emoji": {}, "emoji_inv": {}}')
    return GPTNeoXJapaneseTokenizer(str(folder / "vocab.txt"), str(folder / "emoji.json"))


@pytest.mark.filterwarnings("ignore:.*(vocab.txt|emoji.json):pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*(vocab.txt|emoji.json):ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*maps.json:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*maps.json:ResourceWarning")
@pytest.mark.parametrize("kind", ["cpm", "myt5", "neox_japanese"])
def test_a_line_break_by_another_name_ends_an_answer(kind: str, tmp_path: Path) -> None:
    if kind == "myt5":
        (tmp_path / "maps.json").write_text('{"decompose_map": {}, "merge_map": {}}')
        tokenizer: Any = MyT5Tokenizer(str(tmp_path / "maps.json"))
    else:
        tokenizer = renamed_break() if kind == "cpm" else neox_japanese(tmp_path)
    encoder = Encoder.of(tokenizer, [])
    encoded = encoder(Query("a", " bad"))
    ends = encoder.answer_ends
    answer = encoder.plain("a bad\n\nab")[len(encoded.context) - 1 :]
    assert ends.parse(answer).strip() == "bad"  # GPT-NeoX-Japanese strips what it decodes
    assert ends.complete(encoded.continuation, [*encoded.continuation, *encoder.plain("\n")])


def test_an_answer_that_no_token_says_is_never_exact() -> None:
    encoder = encoder_of("bert")
    answer = encoder.plain("日本語")
    assert set(answer) == {encoder.tokenizer.unk_token_id}
    assert not encoder.answer_ends.complete(answer, [*answer, encoder.eos_id])


# -------------------------------------------------------------------------------------------------- rows

ROWS = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(30)]
SPLITS = "task.dataset.splits={train: 'all[:20]', validation: 'all[20:25]', test: 'all[25:]'}"


def configured(tmp_path: Path, rows: list[Any], *words: str) -> RunConfig:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    given = ["model=tiny", "data=sample", "probe=[]", "task=jsonl", f"task.path='{file}'", SPLITS]
    return load_run([*given, *words])


def read(run: RunConfig) -> Any:
    shots = getattr(run.method, "shots", 0)
    return read_data(run.task, run.probe, run.data, run.evaluation, shots)


@pytest.mark.parametrize("role", ["validation", "test"])
def test_an_item_is_measured_once(tmp_path: Path, role: str) -> None:
    splits = {
        "train": "all[:10]",
        "validation": "all[10:15]",
        "test": "all[25:]",
        role: "all[20:25]+all[23:25]",
    }
    words = [f"task.dataset.splits.{key}='{spec}'" for key, spec in splits.items()]
    with pytest.raises(UserError, match=rf"splits.{role}=.*: 2 of its 7 rows are there a second time"):
        read(configured(tmp_path, ROWS, *words))


def test_training_rows_may_be_named_twice(tmp_path: Path) -> None:
    run = configured(tmp_path, ROWS, "task.dataset.splits.train='all[:20]+all[:20]'")
    assert len(read(run).train) == 40


def test_as_many_examples_are_shown_as_are_said(tmp_path: Path) -> None:
    shown = read(configured(tmp_path, ROWS, "method=frozen", "method.shots=20")).shots
    assert len(shown) == 20
    with pytest.raises(UserError, match=r"method.shots=21: only 20 rows can be shown"):
        read(configured(tmp_path, ROWS, "method=frozen", "method.shots=21"))


def test_probes_show_as_many_examples_as_are_said(tmp_path: Path) -> None:
    run = configured(tmp_path, ROWS, "probe=[winogrande]", "probe.winogrande.shots=65")
    with pytest.raises(UserError, match=r"probe.winogrande.shots=65: only 64 rows can be shown"):
        read(run)


@pytest.mark.parametrize(
    "number", ["1.50", "0.10", "1e3", "1E-7", "-0.0", "12345678901234567890.5", "7", "-3"]
)
def test_numbers_are_written_as_they_stand(tmp_path: Path, number: str) -> None:
    (tmp_path / "n.jsonl").write_text(f'{{"price": {number}}}')
    (row,) = read_jsonl(tmp_path / "n.jsonl")[0]
    run = configured(tmp_path, ROWS, "task.prompt='How much?'", "task.completion='{price}'")
    assert run.task.example(row).answer == f" {number}"
    assert row["price"] == float(number)


def test_numbers_without_end_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "n.jsonl").write_text('{"price": 1e999}\n{"price": -1e999}\n{"price": 1e9}')
    rows, _, rejected = read_jsonl(tmp_path / "n.jsonl")
    assert rows == [{"price": 1e9}]
    assert rejected[0][1].endswith("1e999 is too large a number")


def test_a_byte_order_mark_hides_no_row(tmp_path: Path) -> None:
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert read_jsonl(tmp_path / "bom.jsonl")[0] == [{"a": 1}, {"a": 2}]


def test_prompts_are_equal_however_accents_are_encoded() -> None:
    assert repeated(["cafe\u0301  noir", "the\u0301"], ["caf\u00e9 noir"]) == ["cafe\u0301  noir"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("tool_calls", [{"name": "f"}]), ("reasoning_content", "so"), ("name", "Bo"), ("weight", 0)],
)
def test_what_is_not_read_of_a_message_is_told(tmp_path: Path, key: str, value: object) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a", key: value}]
    run = configured(tmp_path, [{"m": chat}] * 30, "task.messages=m")
    with pytest.raises(UserError, match=f"a message has '{key}'; 'role' and 'content' alone are read"):
        read(run)


@pytest.mark.parametrize(("key", "value"), [("tools", [{"name": "f"}]), ("weight", 0.5)])
def test_what_is_not_read_beside_the_messages_is_told(tmp_path: Path, key: str, value: object) -> None:
    chat = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a", "name": None, "weight": 1},
    ]
    rows = [{"m": chat, "tools": [], key: value}] * 30
    with pytest.raises(UserError, match=f"'{key}' stands beside the messages, which alone are read"):
        read(configured(tmp_path, rows, "task.messages=m"))


@pytest.mark.parametrize("answer", ["\u200b", "\ufeff \u2060", "\u00ad"])
def test_an_answer_that_cannot_be_seen_is_none(answer: str) -> None:
    task = JSONL(path="x")
    with pytest.raises(RowError, match="empty"):
        task.example({"prompt": "a", "completion": answer})
    assert task.example({"prompt": "a", "completion": f"b{answer}"}).answer.strip().startswith("b")


# ------------------------------------------------------------------------------------- overrides, machine


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("+train.lr=1e-4", r"\+train.lr: .*write train.lr=…"),
        ("~train.lr", r"~train.lr: .*write train.lr=…"),
        ("Train.lr=1", r"Train.lr: no such key; did you mean 'train'\?"),
    ],
)
def test_a_key_that_cannot_be_set_so_names_the_mend(word: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_run(["model=tiny", word])


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_terminal_of_no_width_hides_nothing(columns: str) -> None:
    code = "from gdo_cli.support.console import console; console.print('word')"
    env = os.environ | {"COLUMNS": columns}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert found.stdout == "word\n"


@pytest.mark.parametrize("command", [["config", "model=tiny"], ["ls"]])
def test_a_deleted_working_directory_is_one_line(tmp_path: Path, command: list[str]) -> None:
    folder, env = tmp_path / "gone", os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    folder.mkdir()
    code = (
        f"import os, sys; os.chdir({str(folder)!r}); os.rmdir({str(folder)!r});"
        f"os.execv(sys.executable, [sys.executable, '-m', 'gdo_cli', *{command!r}])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "the working directory has been deleted" in found.stderr


# ----------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("metric", ["bleu", "f1", "chrf", "exact_match"])
def test_a_score_that_right_answers_cannot_reach_is_told(metric: str) -> None:
    short, long = ["yes", "no"], ["It is a long enough answer.", "And this is another one."]
    limited = METRICS[metric].doubt(short)
    assert (limited is not None) == (metric == "bleu")
    assert limited is None or limited.startswith("task/bleu cannot be more than 0 of 100")
    assert METRICS[metric].doubt(long) is None
    assert (METRICS[metric].doubt(["a", "the"]) is not None) == (metric in ("f1", "bleu"))


@pytest.mark.parametrize("text", ["དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག", "ꦲꦏ꧀ꦱꦫꦗꦮꦲꦢꦭꦃ", "ᬅᬓ᭄ᬱᬭᬩᬮᬶᬅᬓ᭄ᬱᬭ", "ｷｮｳﾊｲｲﾃﾝｷﾃﾞｽﾈ"])
def test_further_scripts_without_spaces_are_told(text: str) -> None:
    doubt = METRICS["bleu"].doubt([text] * 3)
    assert doubt is not None
    assert "3 of 3 references are in a script that puts no spaces between words; task.tokenize=char" in doubt


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_one_item_and_equal_scores_are_no_significant_difference(metric: str) -> None:
    answers = ["a b c d e f", "one two three four five six"]
    one = METRICS[metric].paired(["a b c d e x"], ["x x x x x x"], [1.0], answers[:1])
    assert one.p == 1.0
    assert one.difference < 0
    same = METRICS[metric].paired([answers[0], "q"], [answers[0] + " ", "q"], [1.0, 1.0], answers)
    assert same.p == 1.0
