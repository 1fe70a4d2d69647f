"""Images as token ids: an input embedding that looks up ids beyond the vocabulary in a bank of image features.

With it a language model reads text and images as one list of ids, which is all that continuous batching and prefix
sharing need. V rows in the text embedding, S image slots, T tokens per image, H hidden size:

    id = V + (generation * S + slot) * T + offset        row in the bank = (id - V) mod (S * T)

The generation of a slot grows whenever it takes another image, so an id never means two images: caches keyed by ids
stay right while slots are recycled (least recently used first, never one in use).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.memory import is_out_of_memory, zeros_on_demand
from models.errors import Busy, NotEnoughMemory, NotFinite, RequestError
from models.tensors.finite import is_finite

MAX_ID = 2**31 - 1  # continuous batching holds ids in int32


class ImageIdsExhausted(Exception):
    """No unused id is left. `ImageBank.reset` starts over, once nothing keyed by the old ids is kept."""


class ImageTokenEmbedding(nn.Module):
    """Replaces a language model's input embedding: ids < V look up a text row, ids >= V a row of the bank.

    `embed_scale` multiplies image features, for models whose embedding scales its own rows (Gemma: sqrt(H)). Raises
    NotEnoughMemory.
    """

    rows: Tensor  # [S * T, H], in the text embedding's dtype and on its device

    def __init__(
        self, text_embedding: nn.Module, *, num_slots: int, num_image_tokens: int, embed_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.text_embedding = text_embedding
        self.num_slots = num_slots
        self.num_image_tokens = num_image_tokens
        self.embed_scale = embed_scale
        self.vocab_size, hidden = self.weight.shape
        count, device = num_slots * num_image_tokens, self.weight.device
        try:
            rows = zeros_on_demand(count, hidden, dtype=self.weight.dtype, device=device)
        except Exception as error:
            if is_out_of_memory(error):
                raise NotEnoughMemory(
                    f"{device} has no memory for {num_slots:,} images, as many as there may be at once; take fewer "
                    "chats (--max-chats) or a shorter context (--context-tokens)."
                ) from error
            raise
        self.register_buffer("rows", rows, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The text rows [V, H], for code that expects an nn.Embedding (weight tying, dtype and device look-ups)."""
        weight = self.text_embedding.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """[..., L] integer ids -> [..., L, H]. On a GPU without a branch: no synchronisation, and fixed shapes."""
        is_image = input_ids >= self.vocab_size
        if is_image.device.type == "cpu" and not is_image.any():  # every step but those that read a prompt's image
            return self.text_embedding(input_ids)
        text = self.text_embedding(input_ids.masked_fill(is_image, 0))
        rows = torch.remainder(input_ids - self.vocab_size, len(self.rows))
        return torch.where(is_image.unsqueeze(-1), functional.embedding(rows, self.rows).to(text.dtype), text)

    @torch.no_grad()
    def write(self, slot: int, features: Tensor) -> None:
        """Put one image's features [T, H] into a slot; returns when any other thread or stream can read them."""
        expected = (self.num_image_tokens, self.rows.shape[1])
        if tuple(features.shape) != expected:
            raise ValueError(f"image features have shape {tuple(features.shape)}; this model's are {expected}")
        start = slot * self.num_image_tokens
        self.rows[start : start + self.num_image_tokens] = features.to(self.rows) * self.embed_scale
        if self.rows.device.type == "cuda":
            torch.cuda.current_stream(self.rows.device).synchronize()
        elif self.rows.device.type == "mps":
            torch.mps.synchronize()


@dataclass
class _Slot:
    """Room for one image. `filling` lets one request encode it while others that need it wait."""

    index: int
    key: str | None = None
    generation: int = -1
    pins: int = 0
    is_ready: bool = False
    last_used: int = 0
    filling: threading.Lock = field(default_factory=threading.Lock)


class PinnedImages:
    """Images that stay in the bank until `release` (or the end of the `with` block)."""

    def __init__(self, bank: ImageBank, slots: dict[str, _Slot]) -> None:
        self._bank = bank
        self._slots = slots

    def fill(self, key: str, encode: Callable[[], Tensor]) -> list[int]:
        """The image's T token ids; its features [T, H] are computed by `encode` unless the bank has them.

        When several threads need the same image, one encodes it. If that fails, the next one tries.
        Raises NotFinite for features that hold NaN or infinity.
        """
        slot = self._slots[key]
        with slot.filling:
            if not slot.is_ready:
                features = encode()
                if not is_finite(features):
                    raise NotFinite.computed_by("The vision tower")
                self._bank.embedding.write(slot.index, features)
                slot.is_ready = True
        return self._bank.ids(slot.index, slot.generation)

    def release(self) -> None:
        """Give the images back; a second call does nothing."""
        slots, self._slots = self._slots, {}
        self._bank._unpin(slots.values())

    def __enter__(self) -> PinnedImages:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ImageBank:
    """Which image is in which slot of an ImageTokenEmbedding, by content keys. Safe from any thread."""

    def __init__(self, embedding: ImageTokenEmbedding, *, max_id: int = MAX_ID) -> None:
        self.embedding = embedding
        self._max_id = max_id
        self._slots = [_Slot(index) for index in range(embedding.num_slots)]
        self._by_key: dict[str, _Slot] = {}
        self._clock = 0
        self._changed = threading.Condition()

    def ids(self, slot: int, generation: int) -> list[int]:
        """The T token ids of a slot's image."""
        shape = self.embedding
        first = shape.vocab_size + (generation * shape.num_slots + slot) * shape.num_image_tokens
        return list(range(first, first + shape.num_image_tokens))

    def pin(self, keys: Iterable[str], *, timeout: float = 0.0) -> PinnedImages:
        """A pinned slot for each key, or for none: waits up to `timeout` seconds for slots pinned by others.

        Raises Busy when too many stay pinned, RequestError when there are more keys than slots, ImageIdsExhausted.
        """
        wanted = list(dict.fromkeys(keys))
        if len(wanted) > len(self._slots):
            raise RequestError(f"{len(wanted)} different images at once; this server holds {len(self._slots)}.")
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._fits(wanted):
                if (left := deadline - time.monotonic()) <= 0:
                    raise Busy("All image places are in use by other chats; try again in a moment.")
                self._changed.wait(left)
            return PinnedImages(self, self._take(wanted))

    def reset(self) -> None:
        """Forget all images and start the ids over. Nothing may be pinned."""
        with self._changed:
            if any(slot.pins for slot in self._slots):
                raise RuntimeError("images are in use")
            self._by_key.clear()
            self._slots = [_Slot(index) for index in range(self.embedding.num_slots)]

    @property
    def num_pinned(self) -> int:
        """Slots in use by running requests."""
        with self._changed:
            return sum(slot.pins > 0 for slot in self._slots)

    @property
    def num_held(self) -> int:
        """Slots that hold an image, in use or not."""
        with self._changed:
            return len(self._by_key)

    def _fits(self, wanted: Sequence[str]) -> bool:
        present = {key for key in wanted if key in self._by_key}
        free = sum(not slot.pins and slot.key not in present for slot in self._slots)
        return len(wanted) - len(present) <= free

    def _take(self, wanted: Sequence[str]) -> dict[str, _Slot]:
        """Pin present images first, so that making room for the others can't push them out."""
        taken = {key: self._by_key[key] for key in wanted if key in self._by_key}
        for slot in taken.values():
            slot.pins += 1
        try:
            for key in wanted:
                if key not in taken:
                    taken[key] = self._recycle(key)
        except ImageIdsExhausted:
            self._release(taken.values())
            raise
        self._clock += 1
        for slot in taken.values():
            slot.last_used = self._clock
        return taken

    def _recycle(self, key: str) -> _Slot:
        """The least recently used free slot, pinned once, given to another image under new ids."""
        slot = min((slot for slot in self._slots if not slot.pins), key=lambda slot: slot.last_used)
        if self.ids(slot.index, slot.generation + 1)[-1] > self._max_id:
            raise ImageIdsExhausted
        self._forget(slot)
        slot.key, slot.generation, slot.pins = key, slot.generation + 1, 1
        self._by_key[key] = slot
        return slot

    def _unpin(self, slots: Iterable[_Slot]) -> None:
        with self._changed:
            self._release(slots)
            self._changed.notify_all()

    def _release(self, slots: Iterable[_Slot]) -> None:
        for slot in slots:
            slot.pins -= 1
            if not slot.pins and not slot.is_ready:  # its encoding failed or never began
                self._forget(slot)

    def _forget(self, slot: _Slot) -> None:
        if slot.key is not None:
            del self._by_key[slot.key]
        slot.key, slot.is_ready, slot.last_used = None, False, 0
