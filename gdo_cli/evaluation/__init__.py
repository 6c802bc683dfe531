"""All that is measured of a model in a run, and on which rows."""
