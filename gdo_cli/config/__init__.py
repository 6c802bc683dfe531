"""The Hydra border: overrides go in, checked dataclasses come out. All that imports Hydra is here."""
