"""``gdo tune``: the best model that holds a contract."""
