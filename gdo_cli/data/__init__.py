"""Rows: from a folder of JSON Lines, the hub, or the bundled sample; and what was wrong with them."""
