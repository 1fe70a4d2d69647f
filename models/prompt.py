"""Prompt formats: a conversation as the exact text a family was trained on, cut into segments around its images.

Every family describes its format as data (`PromptFormat`), whose methods do all the work. The originals build the same
strings with `Conversation.get_prompt` and its separator styles (MiniGPT-4: `minigpt4/conversation`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from models.conversation import Turn
from models.errors import RequestError

IMAGE_SLOT = "<ImageHere>"  # stands for the image tokens while the text is put together; never tokenized

Segment = str | Image.Image


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """system, then for each turn prefix + text + suffix; an open assistant turn is its prefix alone.

    `answer_prefix` stands only before answers that are already there, `between_turns` before every later question.
    `image` is put before the text of a turn once per image, `image_separator` between the last image and the text.
    With `numbers_images` the k-th of several images in a conversation is preceded by "Image k:".
    `stop_strings` end the answer and are cut from it. `answer_starts_after`: only the answer's text after the last
    occurrence of this string counts (a model that repeats the role name; the originals cut there too).
    `reserved` strings mean something to the format or the tokenizer: `neutralise` breaks them in user text.
    """

    system: str = ""
    user_prefix: str
    user_suffix: str = ""
    assistant_prefix: str
    answer_prefix: str = ""
    assistant_suffix: str = ""
    between_turns: str = ""
    image: str = f"<Img>{IMAGE_SLOT}</Img>"
    image_separator: str = " "
    numbers_images: bool = False
    stop_strings: tuple[str, ...] = ()
    answer_starts_after: str | None = None
    reserved: tuple[str, ...] = field(default=("<s>", "</s>", "<unk>", IMAGE_SLOT, "<Img>", "</Img>"))

    def render(self, turns: Sequence[Turn]) -> list[Segment]:
        """The prompt for the assistant's next turn: text segments with the images between them, in order.

        Raises RequestError unless turns alternate user, assistant, …, user.
        """
        text = self.system
        images: list[Image.Image] = []
        for index, turn in enumerate(turns):
            if turn.role != ("user", "assistant")[index % 2]:
                raise RequestError(f"Turn {index + 1} is by the {turn.role}; turns must alternate and begin with user.")
            if turn.role == "assistant":
                text += self.assistant_prefix + self.closed(turn.text)
                continue
            slots = self.image * len(turn.images) + (self.image_separator if turn.images else "")
            between = self.between_turns if index else ""
            text += between + self.user_prefix + slots + _plain(turn.text) + self.user_suffix
            images += turn.images
        if len(turns) % 2 == 0:
            raise RequestError("The conversation must end with a question.")
        text += self.assistant_prefix
        chunks = text.split(IMAGE_SLOT)
        if self.numbers_images and len(images) > 1:
            chunks = [f"{chunk}Image {k}:" for k, chunk in enumerate(chunks[:-1], start=1)] + chunks[-1:]
        segments: list[Segment] = [chunks[0]]
        for image, chunk in zip(images, chunks[1:], strict=True):
            segments += [image, chunk]
        return segments

    def closed(self, answer: str) -> str:
        """An answer as it stands in the prompt, after `assistant_prefix`: the text a model is trained to write."""
        return self.answer_prefix + _plain(answer) + self.assistant_suffix

    def neutralise(self, text: str) -> str:
        """User text with every reserved string broken by a space, so that nobody can type a control token."""
        pattern = "|".join(re.escape(string) for string in self.reserved if len(string) > 1)
        # Breaking one can make another ("######" -> "# ### ##"), so again until none is left.
        while (broken := re.sub(pattern, lambda match: match[0][0] + " " + match[0][1:], text)) != text:
            text = broken
        return text

    def clean(self, raw: str) -> str:
        """The answer as the user sees it, from the decoded tokens so far (`Chat.answer` of MiniGPT-4).

        A trailing part of a stop string is held back, so that it never flashes up while streaming; call `finish` for
        the final text.
        """
        text = self.finish(raw)
        if self.stopped(raw):
            return text
        held = max((_overlap(text, stop) for stop in self.stop_strings), default=0)
        return text[: len(text) - held].rstrip() if held else text

    def finish(self, raw: str) -> str:
        """The final answer: the text before the first stop string, after `answer_starts_after`, stripped."""
        for stop in self.stop_strings:
            raw = raw.split(stop)[0]
        if self.answer_starts_after:
            raw = raw.split(self.answer_starts_after)[-1]
        return raw.strip()

    def stopped(self, raw: str) -> bool:
        """Whether the decoded text contains a stop string."""
        return any(stop in raw for stop in self.stop_strings)


def _plain(text: str) -> str:
    """Text that cannot be taken for an image slot (which is cut out of the prompt before tokenization)."""
    return text.replace(IMAGE_SLOT, "< ImageHere>")


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
