"""Draw the example pictures of the page again: `python -m training.scenes.page_examples`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.scenes.render import render_image
from training.scenes.scene import sample_scene

FOLDER = Path("app/page/assets/examples")
_PALETTE_SIZE = 96  # colours per picture: keeps a file under 15 kB and edges smooth


@dataclass(frozen=True)
class ExamplePicture:
    """A scene, by its seed, with the question that stands under it."""

    file_name: str
    seed: int
    question: str


EXAMPLES = (
    ExamplePicture("stars_and_rings.png", 201, "[grounding] describe this image in detail"),
    ExamplePicture("arrows.png", 153, "[detection] digits"),
    ExamplePicture("bird.png", 236, "[refer] the dotted red circle"),
    ExamplePicture("bus.png", 145, "Describe this image in detail."),
    ExamplePicture("cat.png", 259, "[vqa] where is the green heart relative to the word cat?"),
    ExamplePicture("key.png", 163, "What word is written here?"),
)


def write_examples(folder: Path) -> None:
    """Write the pictures and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        scene = sample_scene(np.random.default_rng(example.seed), min_objects=4)
        render_image(scene).quantize(_PALETTE_SIZE).save(folder / example.file_name, optimize=True)
    index = [{"image": example.file_name, "question": example.question} for example in EXAMPLES]
    (folder / "examples.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_examples(FOLDER)
