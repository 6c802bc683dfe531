"""What families of models call the linear layers of an MLP and of attention. No torch."""

from __future__ import annotations

# Gated (gate/up/down: Gemma, Llama, Qwen, Mistral), then two-matrix MLPs (Phi, OPT; GPT-NeoX).
COLUMN_NAMES = ("gate_proj", "up_proj", "fc1", "dense_h_to_4h")
ROW_NAMES = ("down_proj", "fc2", "dense_4h_to_h")
ATTENTION_COLUMN_NAMES = ("q_proj", "k_proj", "v_proj")
ATTENTION_ROW_NAMES = ("o_proj", "out_proj")
