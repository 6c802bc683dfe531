"""One module for each kind of figure: ``draw(runs, …) → Drawing``, from run folders alone.

To add a kind: a module here with ``draw``, and ``figure: {kind: …}`` in an experiment's YAML, whose other
keys are the arguments of ``draw`` by name. Where a kind draws what ``gdo
analyze`` found, ``ANALYSIS`` names that.
"""
