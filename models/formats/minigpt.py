"""Prompt formats and tasks that several MiniGPT families were trained with."""

from __future__ import annotations

from dataclasses import replace

from models.prompt import IMAGE_SLOT, PromptFormat
from models.tasks import CAPTION, CHAT, DESCRIBE, DETECTION, GROUNDING, IDENTIFY, ODD, QUESTION, REFER, Task

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
    CHAT,
    DESCRIBE,
    Task(label="Story", prompt="Tell a short story about this image.", hint="Something to read about the image."),
    ODD,
)
GROUNDING_TASKS = (
    CHAT,
    CAPTION,
    QUESTION,
    GROUNDING,
    replace(REFER, phrasings=_REFER_PHRASINGS),
    replace(DETECTION, hint="Type a kind of object, or a caption, to see every place where it occurs."),
    IDENTIFY,
)
