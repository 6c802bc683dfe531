"""Tiny random models in folders that are named as PEFT's tests name models of the hub.

The tests run in the folder that holds them, so that those names are paths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

Families = dict[str, tuple[str, dict[str, Any]]]  # name → (model type, its configuration's own part)
NOISE = 0.1  # of each parameter: large enough that adapters change what a model says
WORDS = ["a", "quote", "is", "as", "long", "or", "short", "as", "it", "likes", "and", "says", "no", "more"]

VOCABULARY = 128
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MLP = {"intermediate_size": 64}
_GROUPED = {**_MLP, "num_key_value_heads": 2}
_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}

OPT = "peft-internal-testing/tiny-random-OPTForCausalLM"
_DECODERS: Families = {
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("llama", _GROUPED),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": (
        "gemma3_text",
        {**_GROUPED, "head_dim": 8, "sliding_window": 4},
    ),
    OPT: ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32, **_DROPOUT}),
    "peft-internal-testing/tiny-dummy-qwen2": ("qwen2", _GROUPED),
    "trl-internal-testing/tiny-Qwen3ForCausalLM": ("qwen3", {**_GROUPED, "head_dim": 8}),
    "hf-internal-testing/tiny-random-MistralForCausalLM": ("mistral", _GROUPED),
    "tiny-random/GPTNeoX": ("gpt_neox", _MLP),
    "tiny-random/Phi": ("phi", _MLP),
    "tiny-random/OLMo2": ("olmo2", _GROUPED),
    "tiny-random/Granite": ("granite", _GROUPED),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("gptj", {"n_inner": 64, "rotary_dim": 4}),
    "tiny-random/Bloom": ("bloom", {}),
    "tiny-random/Falcon": ("falcon", {"alibi": False, "new_decoder_architecture": False}),
}
_CLASSIFIERS: Families = {
    "peft-internal-testing/tiny-random-BertForSequenceClassification": ("bert", _MLP),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": ("roberta", _MLP),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": ("llama", _GROUPED),
}
_TRANSLATORS: Families = {
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": ("t5", _T5),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": ("bart", {**_BART, **_DROPOUT}),
}
_ENCODERS: Families = {
    "peft-internal-testing/tiny-random-BertModel": ("bert", _MLP),
    "peft-internal-testing/tiny-random-RobertaModel": ("roberta", _MLP),
}
_KINDS: tuple[tuple[Any, Families], ...] = (
    (AutoModelForCausalLM, _DECODERS),
    (AutoModelForSequenceClassification, _CLASSIFIERS),
    (AutoModelForSeq2SeqLM, _TRANSLATORS),
    (AutoModel, _ENCODERS),
)
DECODERS, CLASSIFIERS = list(_DECODERS), list(_CLASSIFIERS)
TRANSLATORS, ENCODERS = list(_TRANSLATORS), list(_ENCODERS)
LORA_ADAPTER = "peft-internal-testing/tiny-opt-lora-revision"


def write_models(folder: Path) -> None:
    """Write every model, OPT's tokenizer and the adapter that tests of configurations read."""
    logging.disable_progress_bar()
    for kind, families in _KINDS:
        for name, (model_type, fields) in families.items():
            _random_model(kind, model_type, fields).save_pretrained(folder / name)
    _tokenizer().save_pretrained(folder / OPT)
    LoraConfig(base_model_name_or_path=OPT).save_pretrained(folder / LORA_ADAPTER)


def _random_model(kind: Any, model_type: str, fields: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = kind.from_config(AutoConfig.for_model(model_type, **(_COMMON | fields)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * NOISE)
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    names = ["<pad>", "<bos>", "<eos>", "<unk>", *dict.fromkeys(WORDS)]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=64,
    )
