"""The study of *Grow, Don't Overwrite*: its claims, checked against the runs in results/. See README.md."""
