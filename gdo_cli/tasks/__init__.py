"""What is learnt: a row becomes a prompt and an answer. The Hydra group ``task``."""
