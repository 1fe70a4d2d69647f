"""Procedural scenes of coloured shapes, digits and words (no torch in here: the app imports this package)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from training.scenes.render import render_image
from training.scenes.scene import sample_scene


def draw_scene(seed: int | None = None) -> Image.Image:
    """A fresh scene of two or more objects as an RGB picture; the same seed gives the same picture."""
    return render_image(sample_scene(np.random.default_rng(seed), min_objects=2))
