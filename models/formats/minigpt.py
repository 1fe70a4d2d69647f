"""Prompt formats and tasks that several MiniGPT families were trained with."""

from __future__ import annotations

from models.prompt import IMAGE_SLOT, PromptFormat
from models.tasks import Task

_SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. "
    "You will be able to see the image once I provide it to you. Please answer my questions."
)
_RESERVED = ("<s>", "</s>", "<unk>", IMAGE_SLOT, "<Img>", "</Img>")

# `CONV_VISION_Vicuna0`
VICUNA_V0 = PromptFormat(
    system=_SYSTEM + "###",
    user_prefix="Human: ",
    user_suffix="###",
    assistant_prefix="Assistant: ",
    assistant_suffix="###",
    stop_strings=("###",),
    answer_starts_after="Assistant:",
    reserved=(*_RESERVED, "###"),
)
# `CONV_VISION_LLama2`
LLAMA_2 = PromptFormat(
    system=_SYSTEM,
    user_prefix="<s>[INST] ",
    assistant_prefix=" [/INST] ",
    stop_strings=("###",),
    answer_starts_after="Assistant:",
    reserved=(*_RESERVED, "[INST]", "[/INST]"),
)
# `CONV_VISION_minigptv2`: BOS is written out and added by LLaMA's tokenizer as well, so prompts begin with two.
# Answers end with EOS alone, as in its demo: "###" begins a heading.
MINIGPT_V2 = PromptFormat(
    user_prefix="<s>[INST] ",
    assistant_prefix=" [/INST]",
    reserved=(*_RESERVED, "[INST]", "[/INST]"),
)

# `ReferCOCODataset` of the original, `instruction_pool`
_REFER_PHRASINGS = (
    "{}",
    "give me the location of {}",
    "where is {} ?",
    "from this image, tell me the location of {}",
    "the location of {} is",
    "could you tell me the location for {} ?",
    "where can I locate the {} ?",
)

DESCRIBING_TASKS = (
    Task(label="Chat", prompt="", hint="Type whatever you want to know about the image."),
    Task(label="Describe", prompt="Describe this image in detail.", hint="A detailed description of the image."),
    Task(label="Story", prompt="Tell a short story about this image.", hint="Something to read about the image."),
    Task(label="What is odd?", prompt="What is unusual about this image?", hint="What does not belong there."),
)
GROUNDING_TASKS = (
    Task(label="Chat", prompt="", hint="Type whatever you want to know about the image."),
    Task(
        label="Caption",
        identifier="[caption]",
        prompt="[caption] Briefly describe this image.",
        hint="A short description of the whole image.",
    ),
    Task(label="Question", identifier="[vqa]", prompt="[vqa] ", hint="Type a question to get a short answer."),
    Task(
        label="Grounding",
        identifier="[grounding]",
        prompt="[grounding] describe this image in detail",
        hint="A description in which every phrase comes with its box.",
        gives_boxes=True,
    ),
    Task(
        label="Refer",
        identifier="[refer]",
        prompt="[refer] ",
        hint="Type a phrase for one object in the image to see where it is.",
        gives_boxes=True,
        phrasings=_REFER_PHRASINGS,
    ),
    Task(
        label="Detection",
        identifier="[detection]",
        prompt="[detection] ",
        hint="Type a kind of object, or a caption, to see every place where it occurs.",
        gives_boxes=True,
    ),
    Task(
        label="Identify",
        identifier="[identify]",
        prompt="[identify] what is this ",
        hint="Draw a box on the image, then send.",
        takes_box=True,
    ),
)
