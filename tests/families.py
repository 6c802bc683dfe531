"""Tiny random models of many families that transformers has, each as its configuration makes it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from conftest import BOS, EOS, PAD, VOCABULARY, perturb
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_IDS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_WIDE = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_ALIBI = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

# What each has that the others have not: a scale of the head, layers under another name, fused or convolving
# projections, experts, a state in the place of attention, masks of its own.
FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": _LLAMA | _EXPERTS | {"head_dim": 8, "num_experts": 4, "sliding_window": 64},
    "bitnet": _LLAMA,
    "bloom": _ALIBI,
    "cohere": _LLAMA | {"logit_scale": 0.3},
    "cohere2": _LLAMA | {"logit_scale": 0.0625, "sliding_window": 64},
    "codegen": _GPT | {"rotary_dim": 8},
    "ctrl": {"n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "deepseek_v3": _WIDE
    | _EXPERTS
    | {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8}
    | {"qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
    | {"first_k_dense_replace": 1},
    "doge": _LLAMA,
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "falcon_mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "gemma2": _LLAMA | {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 64},
    "glm": _LLAMA | {"head_dim": 8},
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neox": _WIDE,
    "gpt_oss": _LLAMA | {"head_dim": 8, "num_local_experts": 4, "sliding_window": 64},
    "gptj": _GPT | {"rotary_dim": 8},
    "granite": _LLAMA | {"logits_scaling": 6.0},
    "granitemoe": _LLAMA | {"logits_scaling": 0.25, "num_local_experts": 4},
    "hyperclovax": _LLAMA | {"logits_scaling": 3.0},
    "lfm2": _LLAMA | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "llama4_text": _LLAMA | {"head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mixtral": _LLAMA | {"num_local_experts": 4},
    "moshi": _LLAMA | {"ffn_dim": 128},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "nemotron": _LLAMA,
    "olmo2": _LLAMA,
    "olmoe": _LLAMA | {"num_experts_per_tok": 2, "num_experts": 4},
    "openai-gpt": _GPT,
    "phi": _WIDE,
    "phi3": _LLAMA,
    "qwen2_moe": _LLAMA | _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 32},
    "qwen3_moe": _LLAMA | _EXPERTS | {"num_experts": 4, "head_dim": 8},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
    "starcoder2": _LLAMA,
    "xglm": {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4},
}

# Heads that do more than a product and a scale, or layers that see what comes after.
UNLIKE: dict[str, dict[str, Any]] = {
    "bert": _WIDE | {"is_decoder": True},
    "electra": _WIDE | {"embedding_size": 16, "is_decoder": True},
    "ernie": _WIDE | {"is_decoder": True},
    "megatron-bert": _WIDE | {"is_decoder": True},
    "modernbert-decoder": _WIDE | {"local_attention": 64},
    "roberta": _WIDE | {"is_decoder": True, "max_position_embeddings": 160},
    "roformer": _WIDE | {"is_decoder": True},
    "xlm-roberta": _WIDE | {"is_decoder": True, "max_position_embeddings": 160},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "cpmant": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "dim_head": 8,
        "dim_ff": 64,
    },
}


# MLPs of several widths: by a list, or twice as wide where keys and values are another layer's.
_FOUR_LAYERS = _LLAMA | {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 64,
}
BY_LAYER: dict[str, dict[str, Any]] = {
    "gemma3n_text": _FOUR_LAYERS
    | {"intermediate_size": [64, 64, 96, 96], "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0]}
    | {"laurel_rank": 8},
    "gemma4_text": _FOUR_LAYERS | {"global_head_dim": 8, "use_double_wide_mlp": True},
}

# One of each kind of difference; the others are asked in `make test-slow`.
FEW = (
    *("cohere", "phi3", "gpt2", "starcoder2", "bloom", "doge", "deepseek_v3", "mixtral", "qwen2_moe"),
    *("bitnet", "mpt", "mamba", "rwkv", "moshi", "gpt_oss", "gemma4_text"),
)


def by_family(names: Iterable[str], argument: str = "name") -> pytest.MarkDecorator:
    """Ask a test about each of the families, slowly about all but a few."""
    return pytest.mark.parametrize(
        argument, [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in names]
    )


def of_family(name: str, vocabulary: int = VOCABULARY, **options: Any) -> PreTrainedModel:
    """A model of the family, the same one every time, to do with as one likes."""
    return copy.deepcopy(_built(name, vocabulary, tuple(options.items())))


@cache
def _built(name: str, vocabulary: int, options: tuple[tuple[str, Any], ...]) -> PreTrainedModel:
    shape = {**FAMILIES, **UNLIKE, **BY_LAYER}[name] | {"vocab_size": vocabulary} | _IDS | dict(options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **shape)).eval()
    perturb(model, 0.05)
    return model.requires_grad_(False)
