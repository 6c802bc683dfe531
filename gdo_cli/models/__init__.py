"""Weights and tokenizers: from PyPI, the hub, a folder, or random. The Hydra group ``model``.

To add one: a YAML under conf/model that names one of the sources here."""
