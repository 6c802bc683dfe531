"""A tiny random model, for tests and for trying things."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.models.loading import Loaded, ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# By name, so that a sample that is added later makes no other model of it.
TRAINED_ON = (
    "arc_easy",
    "lambada",
    "mathqa",
    "mtnt",
    "multi30k_en_fr",
    "qasc",
    "scitail",
    "wikitext2",
    "winogrande",
)


@dataclass(frozen=True)
class TinyModel(ModelSource):
    """A random Gemma 3 with a tokenizer trained on the bundled sample; the same one every time."""

    identity_name: ClassVar[str] = "gdo_cli.models.TinyModel"
    hidden_size: int = 64
    num_hidden_layers: int = 4
    vocab_size: int = 1024

    def shape(self, name: str) -> dict[str, Any]:
        return {
            "model_type": "gemma3_text",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": 2 * self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "sliding_window": 512,
        }

    def load(self) -> Loaded:
        import torch
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig

        tokenizer = _tiny_tokenizer(self.vocab_size)
        config = Gemma3TextConfig(
            **(self.shape("tiny") | {"vocab_size": len(tokenizer)}),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Gemma3ForCausalLM(config).eval()
        for parameter in model.parameters():  # not the buffers: rounded rotary frequencies hurt
            parameter.data = parameter.data.to(torch.bfloat16)
        return Loaded(model, tokenizer, {"source": "random", "sha256": _state_sha256(model)})


def _tiny_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_on_the_sample(vocab_size)),
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
    )


@cache
def _trained_on_the_sample(vocab_size: int) -> str:
    """A tokenizer, as JSON: training it takes a good part of a tiny run, and it is the same every time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from gdo_cli.data.rows import SAMPLE_DIR

    files = [str(file) for name in TRAINED_ON for file in sorted((SAMPLE_DIR / name).glob("*.jsonl"))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(files, trainer)
    return tokenizer.to_str()


def _state_sha256(model: PreTrainedModel) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
