"""Grow, Don't Overwrite: fine-tune a language model without forgetting, and prove it."""

import os

# Large tensors on huge pages, read by torch at its first allocation: the kernel spends a third of a full
# fine-tuning step on a CPU in clearing small ones.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
