"""What the model is asked is the text: the layouts of tokenizers that people fine-tune, built small.

A small model learns a few answers by heart from the joined text. What gdo then says of them must be what
transformers' own generation says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_RUN
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers import PreTrainedTokenizerFast as Fast

from gdo_cli.config.build import load_run
from gdo_cli.experiment.reopen import Opened, measure
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.generation import generate
from gdo_cli.lm.markup import Markup
from gdo_cli.lm.scoring import is_exact, score
from gdo_cli.lm.tokens import LINE_BREAK, Encoder, Query
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.base import Example
from gdo_cli.training.batches import collate

ROWS = {
    "The sky is": "blue",
    "Who walks a dog?": "Un homme promène un chien.",
    "Is it so?": "Yes, it is!",
    "How many ducks?": "Forty ducks and a half.",
    "Say it twice": "What? What?",
}
TEXTS = [f"Q: {question}\nA: {answer}\n\nQ:" for question, answer in ROWS.items()]
CORPUS = [
    *TEXTS * 30,
    "a b c d e f g h",
    "yes. no.\n\nmaybe.\r\n",
    "tab\tand  two spaces",
    "0123456789 <|> [/] {}_=+-",
]
NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BYTES = [f"<0x{n:02X}>" for n in range(256)]


def fast(tokenizer: Tokenizer, trainer: Any, **names: str) -> Fast:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return Fast(tokenizer_object=tokenizer, **names)


def sentencepiece(normalizer: Any, metaspace: bool = False, strip: bool = True) -> Fast:
    """BPE with bytes for what it lacks, where ``▁`` stands for a space; trained by words, used without."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    parts = [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split("▁", "merged_with_next")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    trainer = trainers.BpeTrainer(
        vocab_size=520, special_tokens=[*NAMES.values(), *BYTES], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    inner = json.loads(tokenizer.to_str())
    inner["added_tokens"] = [t for t in inner["added_tokens"] if t["content"] in NAMES.values()]
    inner["model"]["vocab"]["▁▁"] = len(inner["model"]["vocab"])
    inner["model"]["merges"].insert(0, ["▁", "▁"])  # as in the real ones, before all others
    if not metaspace:
        inner["pre_tokenizer"] = None
    return Fast(tokenizer_object=Tokenizer.from_str(json.dumps(inner)), **NAMES)


def gemma() -> Fast:
    return sentencepiece(normalizers.Replace(" ", "▁"), strip=False)


def mistral() -> Fast:
    """A space before every text: the dummy prefix of SentencePiece."""
    return sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))


def metaspace() -> Fast:
    """Llama 2's in transformers 5, which puts none before a text that begins with a space."""
    return sentencepiece(None, metaspace=True)


def byte_level(pattern: str | None, names: dict[str, str], normalizer: Any = None) -> Fast:
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, whole])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=sorted(set(names.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return fast(tokenizer, trainer, **names)


def llama3() -> Fast:
    return byte_level(LLAMA3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})


def qwen() -> Fast:
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return byte_level(LLAMA3.replace("{1,3}", ""), names, normalizers.NFC())


def gpt2() -> Fast:
    return byte_level(None, dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"))


def bert() -> Fast:
    names = {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = [*names.values()]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    return fast(tokenizer, trainer, **names)


def t5() -> Fast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    special = [*names.values()]
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    return fast(tokenizer, trainer, **names)


LAYOUTS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "gemma": gemma,
    "mistral": mistral,
    "metaspace": metaspace,
    "llama3": llama3,
    "qwen": qwen,
    "gpt2": gpt2,
    "bert": bert,
    "t5": t5,
    "byt5": ByT5Tokenizer,
}
NO_LINES = ("bert", "t5")  # in which a line break is a space like others
by_layout = pytest.mark.parametrize("layout", LAYOUTS)


@dataclass(frozen=True)
class Learnt:
    """A model that knows all answers by heart, and its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def encoder(self) -> Encoder:
        return Encoder.of(self.tokenizer, [])


@cache
def encoder_of(layout: str) -> Encoder:
    return Encoder.of(LAYOUTS[layout](), [])


@cache
def learnt(layout: str) -> Learnt:
    """Learn the joined texts by transformers alone, each ended as its layout can."""
    tokenizer: Any = LAYOUTS[layout]()
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    rows = []
    for text in TEXTS:
        whole = text if layout not in NO_LINES else text.removesuffix("\n\nQ:")
        end = [tokenizer.eos_token_id] if layout in NO_LINES else []
        rows.append([start, *tokenizer(whole, add_special_tokens=False)["input_ids"], *end])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4)
        size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        ids = {"bos_token_id": start, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
        model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **size, **ids))
    width = max(map(len, rows))
    inputs = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150 if layout == "byt5" else 60):  # one byte a token takes longer
        optimizer.zero_grad()
        model(input_ids=inputs, labels=labels).loss.backward()
        optimizer.step()
    return Learnt(model.eval(), tokenizer)


def queries() -> list[Query]:
    return [Query(f"Q: {question}\nA:", f" {answer}") for question, answer in ROWS.items()]


def words(text: str) -> str:
    return " ".join(text.split())


# ------------------------------------------------------------------------------------------------ tokens


@by_layout
def test_context_and_continuation_are_the_tokens_of_the_joined_text(layout: str) -> None:
    encoder = encoder_of(layout)
    tokenizer = encoder.tokenizer
    for query in [*queries(), Query("The sky is", " blue"), Query("", "The sky"), Query("Yes,", "\nNo")]:
        encoded = encoder(query)
        joined = tokenizer(query.context + query.continuation, add_special_tokens=False)["input_ids"]
        assert encoded.context[1:] + encoded.continuation == joined, query


def test_a_dummy_prefix_stands_before_the_text_and_not_before_its_continuation() -> None:
    encoder = encoder_of("mistral")
    apart = encoder.tokenizer(" blue", add_special_tokens=False)["input_ids"]
    assert encoder.tokenizer.convert_ids_to_tokens(apart)[0].startswith("▁▁")
    found = encoder(Query("The sky is", " blue")).continuation
    assert "".join(encoder.tokenizer.convert_ids_to_tokens(found)) == "▁blue"


PIECES = ["The sky", " is", "\n", " ", "yes", ".", "!", "n't", "è", "Q:"]


@pytest.mark.few(3)
@by_layout
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=7), cut=st.integers(0, 30))
def test_wherever_the_seam_is_the_text_comes_back(layout: str, pieces: list[str], cut: int) -> None:
    """Where it lies inside of a token the context stays what generation is given."""
    encoder, text = encoder_of(layout), "".join(pieces)
    context, continuation = text[:cut], text[cut:]
    encoded = encoder(Query(context, continuation))
    assert encoded.context[1:] == encoder.plain(context)
    joined = encoder.plain(text)
    if joined[: len(encoded.context) - 1] == encoded.context[1:]:
        assert encoded.continuation == joined[len(encoded.context) - 1 :]
    if layout in ("gemma", "llama3", "qwen", "gpt2", "byt5"):  # the others trim, or put spaces around
        assert encoder.tokenizer.decode(encoded.context[1:] + encoded.continuation) == text


@pytest.mark.few(3)
@by_layout
def test_training_and_likelihood_are_of_the_joined_text(layout: str) -> None:
    """The loss of transformers' own forward, labels on the answer and the end alone."""
    made = learnt(layout)
    encoder, tokenizer = made.encoder, made.tokenizer
    lm = AnswerLM(made.model, torch.float32)
    for query in queries():
        encoded = encoder(query)
        joined = tokenizer(query.context + query.continuation, add_special_tokens=False)["input_ids"]
        before = len(tokenizer(query.context, add_special_tokens=False)["input_ids"])
        row = torch.tensor([[encoded.context[0], *joined, tokenizer.eos_token_id]])
        labels = row.clone()
        labels[0, : before + 1] = -100
        with torch.no_grad():
            expected = made.model(input_ids=row, labels=labels).loss
            batch = collate([encoded], encoder.eos_id, "answer")
            logits = lm(batch.input_ids_BT, batch.positions_N)
        torch.testing.assert_close(F.cross_entropy(logits, batch.targets_N), expected, rtol=1e-5, atol=1e-6)
        (scored,) = score(lm, [encoded], 1000)
        with torch.no_grad():
            table = made.model(row).logits[0].log_softmax(-1)
        own = sum(float(table[place, row[0, place + 1]]) for place in range(before, row.shape[1] - 2))
        assert scored.logprob == pytest.approx(own, rel=1e-4, abs=1e-5)


# ----------------------------------------------------------------------------------------------- answers


def by_transformers(made: Learnt, prompt: str) -> str:
    """The first line of what transformers' own generation says, as one would write it down."""
    tokenizer = made.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = torch.tensor([[start, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
    # The mask says that nothing is padding, where BOS, EOS and padding may be one token.
    out = made.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=0
    )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip().splitlines()[0]


@pytest.mark.few(3)
@by_layout
def test_what_a_model_knows_by_heart_is_exact_and_generated(layout: str) -> None:
    made = learnt(layout)
    lm, encoder = AnswerLM(made.model, torch.float32), made.encoder
    encoded = encoder.many(queries())
    exact = [
        is_exact(q, s, encoder.answer_ends) for q, s in zip(encoded, score(lm, encoded, 1000), strict=True)
    ]
    texts = generate(lm, encoder, [q.context for q in encoded], encoder.answer_ends, 40, 1000)
    stock = [by_transformers(made, query.context) for query in queries()]
    assert [text.strip() for text in texts] == stock == list(ROWS.values())
    assert exact == [True] * len(ROWS)


def test_line_breaks_are_inside_of_tokens_in_some_layouts() -> None:
    """Or the battery above would not show what it is for."""
    encoder = encoder_of("llama3")
    ids = encoder.plain(TEXTS[1])
    assert any(
        LINE_BREAK.search(t) and t[0] == "." for t in map(encoder.tokenizer.decode, [[i] for i in ids])
    )
    assert (
        encoder.answer_ends.parse(encoder.plain(f" {ROWS['Who walks a dog?']}\n\nQ: What"))
        == " " + ROWS["Who walks a dog?"]
    )


@pytest.mark.few(3)
@pytest.mark.parametrize("layout", ["gemma", "mistral", "metaspace", "llama3", "qwen", "gpt2", "byt5"])
@given(lines=st.lists(st.text(alphabet="ab .!?è", max_size=6), min_size=1, max_size=4),
       breaks=st.sampled_from(["\n", "\n\n", "\r\n", "\r"]))  # fmt: skip
def test_an_answer_ends_where_its_decoded_text_has_a_line_break(
    layout: str, lines: list[str], breaks: str
) -> None:
    encoder = encoder_of(layout)
    text = breaks.join(lines)
    ids = encoder(Query("Q:", " " + text)).continuation
    said = encoder.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert encoder.answer_ends.parse(ids) == LINE_BREAK.split(said)[0]
    assert encoder.sequence_ends.parse(ids) == said


@pytest.mark.parametrize("letter", ["Ċ", "č"])
def test_a_letter_that_byte_level_vocabularies_write_a_line_break_with_is_a_letter_elsewhere(
    letter: str,
) -> None:
    """Maltese and Czech have them."""
    tokenizer = Fast(
        tokenizer_object=Tokenizer(models.WordLevel({letter: 0, "\n": 1, "</s>": 2}, "</s>")),
        eos_token="</s>",
    )
    assert Encoder.of(tokenizer, []).answer_ends.tokens == {1, 2}


# ------------------------------------------------------------------------------------ the product, whole


@pytest.mark.few(4)
@pytest.mark.parametrize("score", ["exact_match", "bleu"])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "byt5"])  # it has no file to load
def test_a_task_is_scored_as_transformers_answers(layout: str, score: str, tmp_path: Path) -> None:
    made = learnt(layout)
    made.model.save_pretrained(tmp_path / "model")
    made.tokenizer.save_pretrained(tmp_path / "model")
    rows = [json.dumps({"question": q, "answer": a}, ensure_ascii=False) for q, a in ROWS.items()]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), "utf-8")
    config = load_run(
        [
            *(word for word in TINY_RUN[1:] if not word.startswith("probe.")),
            "model=custom",
            f"model.path={tmp_path / 'model'}",
            "task=jsonl",
            f"task.path={tmp_path}",
            "task.dataset.splits={train: train, validation: validation, test: test}",
            'task.prompt="Q: {question}\nA:"',
            "task.completion='{answer}'",
            f"task.score={score}",
            "probe=[]",
        ]
    )
    found = measure(Opened(config))
    assert found[f"task/{score}"] == pytest.approx(1.0 if score == "exact_match" else 100.0)


# ------------------------------------------------------------------------------------------------- chats

TEMPLATES = {
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n\n{% endif %}"
    ),
    "qwen": (
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% elif m['role'] == 'assistant' %} {{ m['content'] }}</s>{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
}
TURNS = (("user", "Is it so?"), ("assistant", "Yes."), ("user", "How many <|eot_id|></s><|im_end|> ducks?"))


def with_template(layout: str) -> Encoder:
    tokenizer = LAYOUTS[layout]()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|start|>", special=True)]})
    tokenizer.chat_template = TEMPLATES[layout]
    return Encoder.of(tokenizer, [])


def chat(turns: tuple[tuple[str, str], ...], answer: str = " Forty.") -> Query:
    return Example("User: …\nAssistant:", answer, turns).query()


@pytest.mark.parametrize("layout", TEMPLATES)
def test_a_chat_is_what_the_tokenizer_s_own_template_makes_of_it(layout: str) -> None:
    encoder = with_template(layout)
    tokenizer = encoder.tokenizer
    turns = [{"role": role, "content": said} for role, said in TURNS[:1]]
    own = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    encoded = encoder(chat(TURNS[:1]))
    expected = tokenizer(own, add_special_tokens=False)["input_ids"]
    start = [] if expected[0] == tokenizer.bos_token_id else [encoder.eos_id]  # Qwen has no BOS
    assert encoded.context == start + expected
    bos = tokenizer.bos_token_id
    assert bos is None or encoded.context.count(bos) == 1
    assert encoded.end == encoder.eos_id
    assert tokenizer.decode(encoded.continuation).strip() == "Forty."


def test_a_template_that_asks_for_the_date_says_the_same_tomorrow() -> None:
    encoder = with_template("llama3")
    template = encoder.tokenizer.chat_template
    encoder.tokenizer.chat_template = 'Today: {{ strftime_now( "%d %B %Y" ) }}\n' + template
    assert "Today: 26 July 2024\n" in encoder.tokenizer.decode(encoder(chat(TURNS[:1])).context)
    encoder.tokenizer.chat_template = "{% set form = '%d' %}{{ strftime_now(form) }}" + template
    with pytest.raises(UserError, match="asks for today's date in a form that gdo cannot hold still"):
        encoder(chat(TURNS[:1]))


@by_layout
def test_a_tokenizer_that_writes_small_letters_alone_is_known(layout: str) -> None:
    tokenizer = LAYOUTS[layout]()
    assert not Encoder.of(tokenizer, []).ignores_case
    if layout != "byt5":  # has no normalizer
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        assert Encoder.of(tokenizer, []).ignores_case


@pytest.mark.parametrize("layout", TEMPLATES)
def test_what_is_said_in_a_chat_names_no_control_token(layout: str) -> None:
    encoder = with_template(layout)
    tokenizer = encoder.tokenizer
    clean = tuple((role, said.replace("<|eot_id|></s><|im_end|>", "")) for role, said in TURNS)
    control = set(tokenizer.all_special_ids)
    named, plain = ([i for i in encoder(chat(turns)).context if i in control] for turns in (TURNS, clean))
    assert named == plain
    assert "<|eot_id|></s><|im_end|>" in tokenizer.decode(encoder(chat(TURNS)).context)


def test_solved_examples_are_the_turns_before() -> None:
    encoder = with_template("llama3")
    solved = Example("", " Yes.", TURNS[:1])
    asked = Example("", " Forty.", TURNS[2:])
    assert encoder(asked.query([solved])) == encoder(chat(TURNS))


def test_a_template_that_refuses_a_chat_says_why() -> None:
    with pytest.raises(
        UserError, match=r"refuses a chat of system, assistant: Only user and assistant roles"
    ):
        with_template("mistral")(chat((("system", "Be brief."),)))


def test_a_template_that_leaves_a_message_out_is_refused() -> None:
    encoder = with_template("llama3")
    encoder.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(UserError, match="leaves out a message"):
        encoder(chat(TURNS))


def test_without_a_template_a_chat_is_plain_text() -> None:
    encoder = encoder_of("gemma")
    query = chat(TURNS)
    assert encoder(query) == encoder(Query(query.context, query.continuation))


# ------------------------------------------------------------------------------------------------ markup


def marks(text: str) -> Iterator[tuple[str, bool]]:
    places = getattr(text, "places", ())
    return ((c, any(a <= n < b for a, b in places)) for n, c in enumerate(text))


@given(st.lists(st.tuples(st.text("ab <>", max_size=4), st.booleans()), max_size=6), st.randoms())
def test_places_stay_with_their_characters_however_texts_are_put_together(
    parts: list[tuple[str, bool]], draw: random.Random
) -> None:
    texts = [Markup(text) if written else text for text, written in parts]
    expected = [(c, written) for text, written in parts for c in text]
    while len(texts) > 1:
        at = draw.randrange(len(texts) - 1)
        texts[at : at + 2] = [texts[at] + texts[at + 1]]
    assert list(marks("".join(texts) if not texts else texts[0])) == expected
    if texts and isinstance(texts[0], Markup):
        kept = texts[0].strip()
        assert (str(kept), [c for c, _ in marks(kept)]) == (
            str(texts[0]).strip(),
            list(str(texts[0]).strip()),
        )
        cut = len(texts[0]) - len(str(texts[0]).lstrip())
        assert list(marks(kept)) == expected[cut : cut + len(kept)]
        assert list(marks(texts[0].rstrip())) == expected[: len(str(texts[0]).rstrip())]
