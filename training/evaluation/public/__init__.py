"""Public benchmarks: their annotation files, how answers are scored, and the loop that asks a model."""
