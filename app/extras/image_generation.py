"""Pictures from captions, drawn by a diffusers pipeline (the optional extra `generate`), loaded at its first use.

Source: MGM, `mgm/serve/cli.py`, option `--gen`: Stable Diffusion XL with its defaults and the negative prompt below.
"""

from __future__ import annotations

import importlib.util
import inspect
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from models.errors import MiniVLMError, NotEnoughMemory, RequestError

INSTALL = 'pip install -e ".[generate]"'
NEGATIVE_PROMPT = (
    "out of frame, lowres, text, error, cropped, worst quality, low quality, jpeg artifacts, ugly, duplicate, morbid, "
    "mutilated, out of frame, extra fingers, mutated hands, poorly drawn hands, poorly drawn face, mutation, deformed, "
    "blurry, dehydrated, bad anatomy, bad proportions, extra limbs, cloned face, disfigured, gross proportions, "
    "malformed limbs, missing arms, missing legs, extra arms, extra legs, fused fingers, too many fingers, long neck, "
    "username, watermark, signature"
)
_POLL = 0.1  # seconds between two looks at whether a picture that waits for its turn is still wanted


@dataclass(frozen=True)
class DrawingProgress:
    """How far a picture is: `step` of `steps`; 0 of 0 while it waits or the pipeline loads."""

    step: int = 0
    steps: int = 0


class ImageGenerator:
    """Draws pictures, one at a time, on `device`; `pipeline` is a hub id or a folder."""

    def __init__(self, pipeline: str, device: str) -> None:
        self._name = pipeline
        self._device = device
        self._pipeline: Any = None
        self._turn = threading.Lock()

    @staticmethod
    def is_installed() -> bool:
        """Whether the extra is there."""
        return importlib.util.find_spec("diffusers") is not None

    def draw(
        self, caption: str, *, seed: int | None, cancelled: threading.Event
    ) -> Iterator[DrawingProgress | Image.Image]:
        """Progress, then the picture; ends without one once `cancelled` is set. Closing the iterator cancels, too.

        The work is done in a thread of its own. Raises MiniVLMError for what the user can mend: the pipeline is
        nowhere, memory is short.
        """
        outputs: queue.SimpleQueue[DrawingProgress | Image.Image | BaseException | None] = queue.SimpleQueue()
        arguments = (caption, seed, cancelled, outputs)
        threading.Thread(target=self._work, args=arguments, name="picture", daemon=True).start()
        yield DrawingProgress()
        try:
            while (output := outputs.get()) is not None:
                if isinstance(output, BaseException):
                    raise output
                yield output
        finally:
            cancelled.set()

    def _work(
        self,
        caption: str,
        seed: int | None,
        cancelled: threading.Event,
        outputs: queue.SimpleQueue[DrawingProgress | Image.Image | BaseException | None],
    ) -> None:
        try:
            while not self._turn.acquire(timeout=_POLL):
                if cancelled.is_set():
                    return
            try:
                outputs.put(self._draw(caption, seed, cancelled, outputs))
            finally:
                self._turn.release()
        except _Cancelled:
            pass
        except BaseException as error:  # handed to the reader of `draw`
            outputs.put(error)
        finally:
            outputs.put(None)

    def _draw(self, caption: str, seed: int | None, cancelled: threading.Event, outputs: Any) -> Image.Image:
        import torch

        if self._pipeline is None:
            self._pipeline = load_pipeline(self._name, self._device)
        if cancelled.is_set():
            raise _Cancelled

        def on_step_end(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
            if cancelled.is_set():
                raise _Cancelled
            outputs.put(DrawingProgress(step + 1, int(pipeline.num_timesteps)))
            return values

        options: dict[str, Any] = {
            "negative_prompt": NEGATIVE_PROMPT,
            "generator": None if seed is None else torch.Generator("cpu").manual_seed(seed),
            "callback_on_step_end": on_step_end,
        }
        known = inspect.signature(self._pipeline.__call__).parameters  # not every pipeline takes all of them
        try:
            drawn = self._pipeline(caption, **{key: value for key, value in options.items() if key in known})
        except torch.OutOfMemoryError as error:
            raise NotEnoughMemory(f"{self._device} ran out of memory while drawing with {self._name}.") from error
        image: Image.Image = drawn.images[0].convert("RGB")
        return image


def load_pipeline(name: str, device: str) -> Any:
    """A diffusers text-to-image pipeline on the device; 16 bit on a GPU. Raises MiniVLMError where there is none."""
    if not ImageGenerator.is_installed():
        raise RequestError(f"Drawing pictures needs diffusers, which is not installed: {INSTALL}")
    import torch

    from models.quantization import load_bitsandbytes

    load_bitsandbytes()  # before diffusers does
    from diffusers import AutoPipelineForText2Image

    is_gpu = not device.startswith("cpu")
    # The 16-bit files are a "variant"; a repository without one has the same weights in 32 bit.
    options: list[dict[str, Any]] = [{"torch_dtype": torch.float16, "variant": "fp16"}] if is_gpu else []
    options += [{"torch_dtype": torch.float16 if is_gpu else torch.float32}]
    for index, option in enumerate(options):
        try:
            pipeline = AutoPipelineForText2Image.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False, **option
            )
            break
        except (OSError, ValueError) as error:
            if index == len(options) - 1:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise MiniVLMError(f"The pipeline {name} can't be loaded ({reason}). Set image_generator.") from error
    pipeline.set_progress_bar_config(disable=True)
    try:
        return pipeline.to(device)
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemory(f"{device} has no memory left for {name}; choose a smaller image_generator.") from error


class _Cancelled(Exception):
    """The picture is no longer wanted."""
