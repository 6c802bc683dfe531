"""Finished runs on disk: written once, read anywhere. No torch."""
