"""What is added to a model and what trains: one small dataclass each. The Hydra group ``method``."""
