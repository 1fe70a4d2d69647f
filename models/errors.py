"""What can go wrong because of the user's files or input, as one-line messages: what, where, what to do next.

MiniVLMError
├── ConfigError             the YAML: unknown keys, wrong types, placeholders, unknown family
├── CheckpointMissing       a file or folder that the YAML names is not there (or is gated)
├── DownloadFailed          a file could not be fetched: no connection, no permission, no room, not there any more
├── CheckpointCorrupt       a file is there but cannot be read: truncated, not a checkpoint, a pickle with code
├── CheckpointMismatch      the tensors do not fit the configuration: wrong size, missing or unknown names
├── ConversionFailed        a converted folder can't be written: no room, no permission, something else is there
├── NotEnoughMemory         the estimate exceeds what the device has free, or an allocation failed
├── ImageError              an upload that is not a usable picture
├── ContextOverflow         one turn alone does not fit the model's context
├── RequestError            a request that can't be served as asked: empty question, too many images, bad settings
├── NotFinite               the model computed NaN or infinity: mostly a number format that is too small for it
├── Busy                    the queue is full
├── ShutDown                the server was stopped while it answered
└── ServerFailed            another server, which has the model, can't be reached, refuses us, or breaks off
    └── ServerLoading       … or is still loading

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import unicodedata
from typing import Self

MAX_MESSAGE = 4000  # characters
_ENDS_A_LINE = ("Zl", "Zp")  # categories, of separators that are no control characters


class MiniVLMError(Exception):
    """A mistake or a limit that the user can do something about. The message is one readable line."""

    def __str__(self) -> str:
        """The message; of a value that makes it longer than anybody reads, its beginning and how long it is.

        A name from a file may hold anything: what would break the line or steer a terminal is written as an escape.
        """
        text = super().__str__()
        shown = "".join(map(_visible, text[:MAX_MESSAGE]))
        return shown if len(text) <= MAX_MESSAGE else f"{shown} … ({len(text)} characters)"


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    return repr(char)[1:-1] if category[0] == "C" or category in _ENDS_A_LINE else char


class ConfigError(MiniVLMError):
    """The YAML file or a command-line override is wrong."""


class CheckpointMissing(MiniVLMError):
    """A file or folder named by the configuration does not exist or may not be downloaded."""


class DownloadFailed(MiniVLMError):
    """A file could not be fetched, or not to its end."""


class CheckpointCorrupt(MiniVLMError):
    """A checkpoint file exists but cannot be read."""


class CheckpointMismatch(MiniVLMError):
    """The tensors of a checkpoint do not fit the configuration or each other."""


class ConversionFailed(MiniVLMError):
    """A converted folder could not be written."""


class NotEnoughMemory(MiniVLMError):
    """The model needs more memory than the device has free."""


class ImageError(MiniVLMError):
    """An uploaded file is not a picture that can be used."""


class ContextOverflow(MiniVLMError):
    """A single turn is longer than the model's context."""


class RequestError(MiniVLMError):
    """A question or setting that cannot be served as asked."""


class NotLoaded(RequestError):
    """The model that is asked is not in memory now."""


class NotFinite(MiniVLMError):
    """The model computed NaN or infinity for this request."""

    @classmethod
    def computed_by(cls, part: str) -> Self:
        """The error for what this part of the model ("The vision tower") has computed."""
        return cls(
            f"{part} computed NaN or infinity, so this answer was ended. If that happens again, "
            "the number format is too small for the model: start it with --dtype bfloat16 or float32."
        )


class Busy(MiniVLMError):
    """Too many requests are waiting already."""


class ShutDown(MiniVLMError):
    """The server is stopped, and took no more time for this answer."""


class Unwatched(MiniVLMError):
    """Nobody was there any more to read this answer."""


class ServerFailed(MiniVLMError):
    """Another server, which has the model, does not answer as it should."""


class ServerLoading(ServerFailed):
    """It says that its model is still loading."""
