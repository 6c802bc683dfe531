"""Outcomes of items, their intervals and tests. NumPy, SciPy and sacrebleu; no torch."""
