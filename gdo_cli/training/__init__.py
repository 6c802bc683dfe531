"""The loop, what it is fed, and what it may add to the loss. The Hydra group ``train``."""
