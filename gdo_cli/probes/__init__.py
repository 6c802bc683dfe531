"""What was known before: a row becomes questions, their answers scores. The Hydra group ``probe``."""
