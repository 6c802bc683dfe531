"""PEFT's tests on compiled models."""

from datasets import Dataset, DatasetDict

from peft_suite.cases import compiled
from peft_suite.models import WORDS
from peft_suite.upstream import load

upstream = load("test_torch_compile")
upstream.SETTINGS.clear()  # marks hold views of it
upstream.SETTINGS.update(compiled())


def quotes() -> DatasetDict:
    """In the place of rows of the hub: two dozen of them, of different lengths."""
    texts = [" ".join(WORDS[n % 7 : n % 7 + 5 + n % 11]) for n in range(24)]
    columns = {"quote": texts, "author": texts, "tags": texts}
    return DatasetDict({"train": Dataset.from_dict(columns)})


upstream.load_dataset_english_quotes = quotes

TestTorchCompileCausalLM = upstream.TestTorchCompileCausalLM
