"""What holds for any input: the readers never fall over, layers are layers, growth keeps the function."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BOS, EOS, FIRST_WORD, LINE_BREAKS, PAD, VOCABULARY, logits, random_ids
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from gdo_cli.data.dataset import RowError
from gdo_cli.data.rows import read_jsonl
from gdo_cli.lm.tokens import Encoder
from gdo_cli.methods.base import layer_indices
from gdo_cli.methods.grow import GFreeze, GTrain
from gdo_cli.support.errors import UserError
from gdo_cli.tasks.base import Example
from gdo_cli.tasks.jsonl import JSONL

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)

# How long an example takes says something about the machine alone.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def written(content: bytes) -> Path:
    file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    file.write_bytes(content)
    return file


# ---------------------------------------------------------------------------------------- JSON Lines


@given(st.lists(objects, max_size=6), st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]), st.booleans())
def test_rows_come_back_as_they_were_written(rows: list[dict[str, Any]], end: str, escaped: bool) -> None:
    text = "".join(json.dumps(row, ensure_ascii=escaped) + end for row in rows)
    found, where, rejected = read_jsonl(written(text.encode()))
    assert found == rows
    assert rejected == []
    assert len(where) == len(rows)


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")), max_size=8))
def test_every_line_is_a_row_or_a_complaint_or_blank(lines: list[bytes]) -> None:
    rows, where, rejected = read_jsonl(written(b"\n".join(lines)))
    numbers = [int(place.split(":")[1]) for place in [*where, *(told for _, told in rejected)]]
    assert sorted(numbers) == [n for n, line in enumerate(lines, 1) if line.strip()]
    assert all(isinstance(row, dict) for row in rows)


@given(objects, st.data())
def test_a_row_with_one_byte_changed_is_never_more_than_a_row_or_a_complaint(
    row: dict[str, Any], data: st.DataObject
) -> None:
    line = bytearray(json.dumps(row).encode())
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255).filter(lambda b: b != 10))
    rows, _, rejected = read_jsonl(written(bytes(line)))
    assert len(rows) + len(rejected) <= 1


@given(st.dictionaries(st.sampled_from(["prompt", "completion", "x"]), values))
def test_any_row_is_an_example_or_a_reason(row: dict[str, Any]) -> None:
    try:
        example = JSONL(path="rows.jsonl").example(row)
    except RowError:
        return
    assert isinstance(example, Example)
    assert example.answer.strip()
    assert "\n" not in example.answer


# -------------------------------------------------------------------------------------------- layers


@given(st.one_of(st.just("all"), values, st.lists(st.integers(-3, 12), max_size=6)), st.integers(1, 10))
def test_any_choice_of_layers_is_layers_of_the_model_or_refused(choice: Any, n: int) -> None:
    try:
        chosen = layer_indices(choice, n)
    except UserError:
        assert repr(choice) != repr(list(range(n)))  # [False] == [0], and is none
        return
    if choice == "all":
        assert chosen is None
        return
    assert chosen == sorted(set(choice))
    assert set(chosen) <= set(range(n))


# ------------------------------------------------------------------------------------------- answers


@given(st.lists(st.sampled_from([PAD, EOS, BOS, *LINE_BREAKS, *range(FIRST_WORD, VOCABULARY)]), max_size=12))
def test_an_answer_is_the_words_before_its_first_end(word_encoder: Encoder, ids: list[int]) -> None:
    words: list[str] = []
    for token in ids:
        if token == EOS or token in LINE_BREAKS:
            break
        words += [f"w{token}"] if token >= FIRST_WORD else []
    assert word_encoder.answer_ends.parse(ids).split() == words


@given(st.lists(st.integers(FIRST_WORD, VOCABULARY - 1), max_size=12))
def test_what_is_asked_comes_back_from_its_tokens(word_encoder: Encoder, ids: list[int]) -> None:
    text = " ".join(f"w{i}" for i in ids)
    assert word_encoder.answer_ends.parse([*word_encoder.plain(text), EOS, *ids]).strip() == text


# -------------------------------------------------------------------------------------------- shapes

EIGHTS = st.integers(1, 6).map(lambda n: 32 * n)  # full vector registers: see conftest


@settings(max_examples=8, deadline=None)
@given(
    hidden=EIGHTS,
    inner=EIGHTS,
    depth=st.integers(1, 4),
    k=st.integers(2, 5),
    trains=st.sampled_from([GFreeze, GTrain]),
    data=st.data(),
)
def test_growth_of_any_shape_keeps_the_function_and_adds_what_it_should(
    hidden: int, inner: int, depth: int, k: int, trains: Any, data: st.DataObject
) -> None:
    layers = sorted(data.draw(st.sets(st.integers(0, depth - 1), min_size=1)))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    before = sum(p.numel() for p in model.parameters())
    ids = random_ids(2, 9)
    expected = logits(model, ids)
    grown = trains(k=k).prepare(model, layers)
    found = logits(grown, ids)
    assert torch.equal(found, expected) if k == 2 else torch.allclose(found, expected, atol=1e-4)
    added = sum(p.numel() for p in grown.parameters()) - before
    if trains is GFreeze:
        assert added == len(layers) * 3 * (k - 1) * hidden * inner
    with pytest.raises(UserError, match="no layer"):
        layer_indices([depth], depth)
