"""Claims about training examples in tokens: made when drawn, and the too long left out all the same."""

import pytest
from conftest import RunFactory

from gdo_cli.experiment.reopen import build_evaluator, read_run_data
from gdo_cli.lm.tokens import Encoder, LazilyEncoded, Query
from gdo_cli.models.loading import Loaded
from gdo_cli.support.errors import UserError


def test_queries_encoded_one_by_one_are_those_encoded_together(tiny_loaded: Loaded) -> None:
    encoder = Encoder.of(tiny_loaded.tokenizer, [])
    queries = [Query("A cat is", " an animal"), Query("  ", "\n"), Query("Ünïcode 🐈", " yes")]
    lazy = LazilyEncoded(encoder, queries)
    assert len(lazy) == 3
    assert [lazy[i] for i in range(3)] == lazy[:] == encoder.many(queries)


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
