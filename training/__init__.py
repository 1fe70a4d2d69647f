"""Training of the tiny bundled checkpoints: scenes, samples, recipe, export and evaluation."""
