"""What families of models call the linear layers of an MLP and of attention. No torch."""

from __future__ import annotations

# What a name ends in. One line a way of naming, with some who have it.
_MLP_NAMES = (
    (("gate_proj", "up_proj"), "down_proj"),  # Gemma, Llama, Qwen, Mistral; MPT without gate
    (("gate_up_proj",), "down_proj"),  # gate and up in one: Phi-3, GLM
    (("Wi",), "Wo"),  # the same: ModernBERT
    (("fc1",), "fc2"),  # Phi, OPT, BART
    (("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX, Bloom, Falcon
    (("c_fc",), "c_proj"),  # StarCoder2, GPT-Neo, GPTBigCode
    (("fc_in",), "fc_out"),  # GPT-J, CodeGen
    (("w1", "w3"), "w2"),  # LFM2
    (("wi", "wi_0", "wi_1"), "wo"),  # T5
    (("intermediate.dense",), "output.dense"),  # BERT, RoBERTa
)
COLUMN_NAMES = tuple(name for columns, _ in _MLP_NAMES for name in columns)
ROW_NAMES = tuple({row: None for _, row in _MLP_NAMES})
ATTENTION_COLUMN_NAMES = ("q_proj", "k_proj", "v_proj")
ATTENTION_ROW_NAMES = ("o_proj", "out_proj")
