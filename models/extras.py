"""Programs that a model was trained to work with: OCR, which reads text in the image, and one that draws pictures.

Only the texts are here; the programs are in app/extras/extended_model.py. Source: MGM, `mgm/serve/cli.py`, options
`--ocr` and `--gen`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MIN_CONFIDENCE = 0.1  # of a piece of text, below which the original leaves it out

_CAPTION = re.compile(r"<h>(.*?)</h>", re.DOTALL)
_MARKED = re.compile(r"\s*<h>\s*(.*?)\s*(?:</h>\s*|(?:</?h?)?$)", re.DOTALL)
_BEGUN = re.compile(r"\s*<h?$")


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Whether OCR and drawing are on at first; a question may say otherwise. `image_generator`: a diffusers hub id."""

    ocr: bool = False
    generate: bool = False
    image_generator: str = "stabilityai/stable-diffusion-xl-base-1.0"


def with_read_text(question: str, pieces: Sequence[str]) -> str:
    """A question with the texts that were read in its image; unchanged if there are none."""
    return f"{question}\nReference OCR Token: {', '.join(pieces)}\n" if pieces else question


def with_picture_request(question: str) -> str:
    """A question that also asks for a picture: plain text, not a special token. It comes after the text read."""
    return f"{question} <GEN>"


def caption_of(answer: str) -> str | None:
    """What to draw: the last `<h>…</h>` of an answer, or None."""
    captions = [caption.strip() for caption in _CAPTION.findall(answer)]
    return captions[-1] if captions and captions[-1] else None


def without_marks(answer: str, *, streaming: bool = False) -> str:
    """An answer as people read it: the caption on a line of its own, its marks left out."""
    if streaming:
        answer = _BEGUN.sub("", answer)
    return _MARKED.sub(lambda match: f"\n\nPicture: {match[1]}\n\n" if match[1] else "", answer).strip()
