"""One run, from its configuration to its folder; and finished runs opened again."""
