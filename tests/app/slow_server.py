"""`python -m tests.app.slow_server …` is demo.py with a model that looks at a red picture for ever, in many short
operations, as a large vision tower looks at one for long."""

from __future__ import annotations

import gc
import sys

import torch
from torch import Tensor

import demo
from models.vision_language_model import VisionLanguageModel

LOOKS = "The picture is looked at."


def main() -> int:
    """Serve with the arguments of the command line."""
    image_embeds = VisionLanguageModel.image_embeds

    def endless(model: VisionLanguageModel, pixel_values: Tensor) -> Tensor:
        red, green, _ = pixel_values[0].mean((1, 2)).tolist()
        if red > green + 1:
            print(f"{LOOKS} A collection of garbage looks at {len(gc.get_objects())} objects.", flush=True)
        numbers = torch.ones(512, 512)
        while red > green + 1:
            numbers @ numbers
        return image_embeds(model, pixel_values)

    VisionLanguageModel.image_embeds = endless  # type: ignore[assignment, method-assign]
    return demo.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
