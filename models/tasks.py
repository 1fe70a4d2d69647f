"""Task identifiers: what a family was trained to be asked. The app makes its task buttons from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question.

    `identifier` is the token text in front of the question ("[vqa]", empty for free chat), `prompt` what the button
    puts into the text box, `hint` one sentence under it. `takes_box`: the user draws a box, whose text is appended
    to the question. `gives_boxes`: the answer contains boxes to draw. `phrasings`: how the question asks for one thing
    by its phrase, with `{}` in the phrase's place; answers are then boxes alone, which show that thing.
    """

    label: str
    prompt: str
    hint: str
    identifier: str = ""
    takes_box: bool = False
    gives_boxes: bool = False
    phrasings: tuple[str, ...] = ()


# What models of several kinds know; a format takes them as they are, or with what differs.
CHAT = Task(label="Chat", prompt="", hint="Type whatever you want to know about the image.")
DESCRIBE = Task(label="Describe", prompt="Describe this image in detail.", hint="A detailed description of the image.")
ODD = Task(label="What is odd?", prompt="What is unusual about this image?", hint="What does not belong there.")
CAPTION = Task(
    label="Caption",
    identifier="[caption]",
    prompt="[caption] Briefly describe this image.",
    hint="A short description of the whole image.",
)
QUESTION = Task(label="Question", identifier="[vqa]", prompt="[vqa] ", hint="Type a question to get a short answer.")
GROUNDING = Task(
    label="Grounding",
    identifier="[grounding]",
    prompt="[grounding] describe this image in detail",
    hint="A description in which every phrase comes with its box.",
    gives_boxes=True,
)
REFER = Task(
    label="Refer",
    identifier="[refer]",
    prompt="[refer] ",
    hint="Type a phrase for one object in the image to see where it is.",
    gives_boxes=True,
    phrasings=("{}",),
)
DETECTION = Task(
    label="Detection",
    identifier="[detection]",
    prompt="[detection] ",
    hint="Type a kind of object to see every place where it occurs.",
    gives_boxes=True,
)
IDENTIFY = Task(
    label="Identify",
    identifier="[identify]",
    prompt="[identify] what is this ",
    hint="Draw a box on the image, then send.",
    takes_box=True,
)
