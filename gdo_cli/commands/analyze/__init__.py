"""``gdo analyze``: inside a finished run and its base."""
