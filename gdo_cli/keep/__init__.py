"""What must not be lost: the contract, and whether a model holds it."""
