"""Grow, Don't Overwrite: fine-tune a language model without forgetting, and prove it."""

import os

# Large tensors on huge pages, read by torch at its first allocation: with small ones the kernel
# spent 2.4 to 3.6 s of a full fine-tuning step on clearing them, with huge ones 1.8 s (one thread).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
