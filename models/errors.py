"""What can go wrong because of the user's files or input, as one-line messages: what, where, what to do next.

MiniVLMError
├── ConfigError             the YAML: unknown keys, wrong types, placeholders, unknown family
├── CheckpointMissing       a file or folder that the YAML names is not there (or is gated)
├── CheckpointCorrupt       a file is there but cannot be read: truncated, not a checkpoint, a pickle with code
├── CheckpointMismatch      the tensors do not fit the configuration: wrong size, missing or unknown names
├── NotEnoughMemory         the estimate exceeds what the device has free, or an allocation failed
├── ImageError              an upload that is not a usable picture
├── ContextOverflow         one turn alone does not fit the model's context
├── RequestError            a request that can't be served as asked: empty question, too many images, bad settings
└── Busy                    the queue is full

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations


class MiniVLMError(Exception):
    """A mistake or a limit that the user can do something about. The message is one readable line."""


class ConfigError(MiniVLMError):
    """The YAML file or a command-line override is wrong."""


class CheckpointMissing(MiniVLMError):
    """A file or folder named by the configuration does not exist or may not be downloaded."""


class CheckpointCorrupt(MiniVLMError):
    """A checkpoint file exists but cannot be read."""


class CheckpointMismatch(MiniVLMError):
    """The tensors of a checkpoint do not fit the configuration or each other."""


class NotEnoughMemory(MiniVLMError):
    """The model needs more memory than the device has free."""


class ImageError(MiniVLMError):
    """An uploaded file is not a picture that can be used."""


class ContextOverflow(MiniVLMError):
    """A single turn is longer than the model's context."""


class RequestError(MiniVLMError):
    """A question or setting that cannot be served as asked."""


class Busy(MiniVLMError):
    """Too many requests are waiting already."""
