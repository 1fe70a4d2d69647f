"""`python -m benchmarks.attacks`: what one hostile client can do, and what somebody else notices of it."""
