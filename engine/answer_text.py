"""Token ids -> the text a user may see, while more ids are coming.

Decoding always starts from the first id: then the final text is exactly `finish(decode(all ids))`, whatever a
tokenizer does at the seams between tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.prompt import PromptFormat

_REPLACEMENT = "\ufffd"
_MOST_HELD = 3  # bytes of a UTF-8 character whose last byte is missing


class AnswerText:
    """The text of one answer as its ids arrive.

    `text` never ends in half a character or in a part of a stop string; after `finish` it is exact. `num_tokens` counts
    the ids up to the end or the token that completed a stop string; ids after that one are ignored.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_format: PromptFormat) -> None:
        self._decode = decode
        self._format = prompt_format
        self._raw = ""
        self.text = ""
        self.num_tokens = 0
        self.is_stopped = False

    def update(self, ids: Sequence[int]) -> None:
        """Take all ids so far."""
        if self.is_stopped or len(ids) == self.num_tokens:
            return
        raw, count = self._decode(ids), len(ids)
        if self._format.stopped(raw):
            self.is_stopped = True
            raw, count = self._up_to_stop(ids)
        self._raw, self.num_tokens = raw, count
        self.text = self._format.clean(raw if self.is_stopped else hold_back(raw))

    def finish(self) -> None:
        """No more ids are coming: show what was held back."""
        self.text = self._format.finish(self._raw)

    def _up_to_stop(self, ids: Sequence[int]) -> tuple[str, int]:
        """The shortest decoded text with a stop string, and its number of ids."""
        for count in range(self.num_tokens + 1, len(ids)):
            if self._format.stopped(raw := self._decode(ids[:count])):
                return raw, count
        return self._decode(ids), len(ids)


def stop_check(
    decode: Callable[[Sequence[int]], str], prompt_format: PromptFormat
) -> Callable[[Sequence[int]], bool] | None:
    """Whether the last of some ids may complete a stop string, from few of them; None for a format without any."""
    most = max((len(stop.encode()) for stop in prompt_format.stop_strings), default=0)
    if not most:
        return None
    return lambda ids: prompt_format.stopped(decode(ids[-most:]))


def hold_back(text: str) -> str:
    """Without trailing replacement characters that the next bytes may still turn into a real character."""
    kept = len(text)
    while kept and len(text) - kept < _MOST_HELD and text[kept - 1] == _REPLACEMENT:
        kept -= 1
    return text[:kept]
