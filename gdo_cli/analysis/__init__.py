"""What is read off weights and runs: update norms and ranks, and which layers to choose by them."""
