"""A stand-in for the package that ZeroGPU Spaces have; `spaces.py` can also be put on the path under its own name."""
