"""Texts of the MiniGPT line's training data: the caption processor, instruction pools, box text.

Source: MiniGPT-4 (commit d94738a), `minigpt4/processors/blip_processors.py`, `minigpt4/datasets/datasets/*.py`,
`prompts/alignment.txt`. The strings are byte for byte those the released models were trained with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_CAPTION_WORDS = 50

ALIGNMENT_PROMPTS = (
    "<Img><ImageHere></Img> Describe this image in detail.",
    "<Img><ImageHere></Img> Take a look at this image and describe what you notice.",
    "<Img><ImageHere></Img> Please provide a detailed description of the picture.",
    "<Img><ImageHere></Img> Could you describe the contents of this image for me?",
)
REFER_POOL = (
    "[refer] {}",
    "[refer] give me the location of {}",
    "[refer] where is {} ?",
    "[refer] from this image, tell me the location of {}",
    "[refer] the location of {} is",
    "[refer] could you tell me the location for {} ?",
    "[refer] where can I locate the {} ?",
)
IDENTIFY_POOL = (
    "[identify] {}",
    "[identify] what object is in this location {}",
    "[identify] identify the object present at this location {}",
    "[identify] what is it in {}",
    "[identify] describe this object in {}",
    "[identify] this {} is",
    "[identify] the object in {} is",
)
VQA_POOL = (
    "[vqa] {}",
    "[vqa] Based on the image, respond to this question with a short answer: {}",
)
GROUNDING_POOL = (
    "[grounding] please describe this image in details",
    "[grounding] describe this image as detailed as possible",
    "[grounding] summarize this image in details",
    "[grounding] give a thorough description of what you see in this image",
)
DETECTION_POOL = ("[detection] {}",)
_CAPTION_TEXTS = (
    "Briefly describe this image.",
    "Provide a concise depiction of this image.",
    "Present a short description of this image.",
    "Summarize this image in a few words.",
    "A short image caption:",
    "A short image description:",
    "A photo of ",
    "An image that shows ",
    "Write a short description for the image. ",
    "Write a description for the photo.",
    "Provide a description of what is presented in the photo.",
    "Briefly describe the content of the image.",
    "Can you briefly explain what you see in the image?",
    "Could you use a few words to describe what you perceive in the photo?",
    "Please provide a short depiction of the picture.",
    "Using language, provide a short account of the image.",
    "Use a few words to illustrate what is happening in the picture.",
)
CAPTION_POOL = tuple(f"[caption] {text}" for text in _CAPTION_TEXTS)


def process_caption(text: str) -> str:
    """Lower case, some punctuation to spaces, runs of white space to one, at most 50 words.

    Source: `BlipCaptionProcessor.pre_caption`.
    """
    text = re.sub(r"[.!\"()*#:;~]", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    words = text.split(" ")
    return " ".join(words[:MAX_CAPTION_WORDS]) if len(words) > MAX_CAPTION_WORDS else text


def box_text(xywh: Sequence[float], image_size: tuple[int, int]) -> str:
    """A COCO box [x, y, width, height] in pixels as `{<x1><y1><x2><y2>}` in percent, each truncated towards zero.

    Unlike `models.grounding.format_box` it neither clips nor rounds up what floating point left just below a number:
    the training data did not. Source: `ReferCOCODataset.preprocess`.
    """
    x, y, width, height = xywh
    image_width, image_height = image_size
    corners = (
        x / image_width * 100,
        y / image_height * 100,
        (x + width) / image_width * 100,
        (y + height) / image_height * 100,
    )
    return "{" + "".join(f"<{int(corner)}>" for corner in corners) + "}"
