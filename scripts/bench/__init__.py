"""``make bench``: gdo and its peers, alternately, on the same model, batches and precision."""
