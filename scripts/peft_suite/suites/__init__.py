"""PEFT's test modules with the growth tuner's cases in the place of other methods'."""
