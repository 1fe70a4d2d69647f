"""Training of every stage of all families, evaluation, and what made the bundled checkpoints."""
