"""A decoder as gdo runs it: tokens, logits where they are read, scores, answers.

All that hangs on how transformers works inside is here.
"""
