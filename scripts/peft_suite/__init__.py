"""PEFT's own test suite, run against the growth tuner (README.md says how)."""
