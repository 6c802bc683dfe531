"""``gdo sweep``: a grid planned, run and accounted for."""
