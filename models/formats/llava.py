"""Prompt formats of the LLaVA line by the names of its `conversation.py`, and the tasks of models without boxes."""

from __future__ import annotations

from models.prompt import IMAGE_SLOT, PromptFormat
from models.tasks import CHAT, DESCRIBE, ODD, Task

_IMAGE = {"image": f"{IMAGE_SLOT}\n", "image_separator": "", "numbers_images": True}

_LLAMA_3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

FORMATS = {
    "vicuna_v1": PromptFormat(
        system=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        ),
        user_prefix="USER: ",
        user_suffix=" ",
        assistant_prefix="ASSISTANT:",
        answer_prefix=" ",
        assistant_suffix="</s>",
        # Nothing but this word ends a question; an answer ends with a token.
        reserved=("<s>", "</s>", "<unk>", IMAGE_SLOT, "<image>", "ASSISTANT:"),
        **_IMAGE,  # type: ignore[arg-type]
    ),
    "gemma": PromptFormat(
        user_prefix="<start_of_turn>user\n",
        user_suffix="<end_of_turn>\n",
        assistant_prefix="<start_of_turn>model\n",
        assistant_suffix="<end_of_turn>\n<eos>",
        reserved=("<bos>", "<eos>", "<unk>", "<pad>", "<start_of_turn>", "<end_of_turn>", IMAGE_SLOT, "<image>"),
        **_IMAGE,  # type: ignore[arg-type]
    ),
    # The assistant's header says "system": a slip the released 8B models were trained with.
    "llama_3": PromptFormat(
        system=(
            "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. "
            "You are able to understand the visual content that the user provides, "
            "and assist the user with a variety of tasks using natural language.<|eot_id|>"
        ),
        user_prefix="<|start_header_id|>user<|end_header_id|>\n\n",
        user_suffix="<|eot_id|>",
        assistant_prefix="<|start_header_id|>system<|end_header_id|>\n\n",
        assistant_suffix="<|eot_id|>",
        reserved=(*_LLAMA_3_TOKENS, IMAGE_SLOT, "<image>"),
        **_IMAGE,  # type: ignore[arg-type]
    ),
    "mistral_instruct": PromptFormat(
        user_prefix="[INST] ",
        assistant_prefix=" [/INST]",
        answer_prefix=" ",
        assistant_suffix=" </s>",
        between_turns="<s>",
        reserved=("<s>", "</s>", "<unk>", "[INST]", "[/INST]", IMAGE_SLOT, "<image>"),
        **_IMAGE,  # type: ignore[arg-type]
    ),
    "chatml_direct": PromptFormat(
        system="<|im_start|>system\nAnswer the questions.<|im_end|>",
        user_prefix="<|im_start|>user\n",
        user_suffix="<|im_end|>",
        assistant_prefix="<|im_start|>assistant\n",
        assistant_suffix="<|im_end|>",
        reserved=("<|im_start|>", "<|im_end|>", "<|startoftext|>", "<|endoftext|>", IMAGE_SLOT, "<image>"),
        **_IMAGE,  # type: ignore[arg-type]
    ),
    # Stage 1 of most sizes: image, caption, newline. In training the caption follows the image at once.
    "plain": PromptFormat(
        user_prefix="",
        assistant_prefix="",
        assistant_suffix="\n",
        image=IMAGE_SLOT,
        image_separator="",
        stop_strings=("\n",),
        reserved=("<s>", "</s>", "<unk>", IMAGE_SLOT, "<image>"),
    ),
}
# Beside the tokenizer's EOS: what these models also end their answers with.
STOP_PIECES = {
    "vicuna_v1": (),
    "gemma": ("<end_of_turn>",),
    "llama_3": ("<|end_of_text|>", "<|eot_id|>"),
    "mistral_instruct": (),
    "chatml_direct": ("<|im_end|>", "<|endoftext|>"),
    "plain": (),
}

LLAVA_TASKS = (
    CHAT,
    DESCRIBE,
    Task(label="Read", prompt="What does the text in this image say?", hint="Text in the image, read out."),
    ODD,
)
