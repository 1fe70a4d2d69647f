"""ChatEngine: many chats share one model.

turns -> prompt segments -> token ids (an image is ids too: models/parts/image_tokens.py) -> continuous batching with
prefix sharing -> text. Each question's thread prepares its own prompt and images; one background thread generates.

    engine_queue    who may use the model now          engine_loop       the generation thread
    engine_prompt   a prompt that fits the context     engine_batching   the library it runs, adapted
    engine_memory   sizes                              engine_stream     one answer as it comes (decoding, sampling)
    engine_images   the vision tower's passes          engine_pages      its pages, read and written quickly
    engine_steady   decoding while nobody comes        engine_attention  attention on a CPU
    engine_contiguous  its keys and values             engine_graphs     decoding steps on a GPU
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from app.decoding import stop_check
from app.engine_graphs import can_use_graphs
from app.engine_images import ImageEncoder
from app.engine_loop import GenerationLoop
from app.engine_memory import batching_config, image_slots, is_out_of_memory, kv_bytes_per_token
from app.engine_prompt import Prompt, check_turns, fit_prompt
from app.engine_queue import Admission
from app.engine_stream import AnswerStream, Submission
from app.sampling import check as check_sampling
from models.conversation import Sampling, Turn
from models.errors import Busy, NotEnoughMemory
from models.model_info import ModelInfo
from models.parts.image_tokens import ImageBank, ImageIdsExhausted, ImageTokenEmbedding, PinnedImages
from models.parts.packed_weights import pack_weights
from models.parts.routing_tracer import trace_routing
from models.routing_trace import RoutingTrace
from models.vision_language_model import VisionLanguageModel

_IMAGES_AT_ONCE = 8  # in one pass of the vision tower
_IMAGE_WAIT = 30.0  # seconds a request waits for image places in use by others


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """What is in use now, and totals since the start. Everything above the totals is back at zero when idle."""

    active: int  # requests with a place
    waiting: int  # requests in the queue
    in_loop: int  # requests the generation loop has not let go of
    known_to_loop: int  # requests whose reader has not let go of them
    pages_in_use: int
    images_pinned: int
    pages_kept: int  # for the next question of some chat
    pages_total: int
    images_held: int
    image_slots: int
    page_bytes: int  # of one page; times the number of pages, what is reserved for keys and values
    image_bytes: int
    copy_bytes: int  # set aside for keys and values that are decoded without pages
    images_encoded: int
    images_reused: int
    prompt_tokens: int
    prompt_tokens_reused: int
    restarts: int
    steps_captured: int  # decoding steps held as CUDA graphs


class ChatEngine:
    """Answers conversations, many at a time, from any thread (see app.chat_model.ChatModel).

    `max_concurrent` chats are answered at once, `max_queue` more wait. `kv_bytes` bounds the KV cache (default: half of
    what is free). A step takes at most `max_batch_tokens` tokens (default: 512 on a CPU, 2048 elsewhere). While answers
    are being written it reads only `busy_prefill_tokens` of new prompts (default: 10 on a CPU, no limit elsewhere), so
    that these keep flowing, or as many times that as there are prompts for each answer. `update_interval` is the least
    time in seconds between two partial answers of one stream.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        max_concurrent: int = 8,
        max_queue: int = 32,
        max_batch_tokens: int | None = None,
        busy_prefill_tokens: int | None = None,
        page_size: int = 16,
        kv_bytes: int | None = None,
        num_image_slots: int | None = None,
        update_interval: float = 0.05,
    ) -> None:
        self._model = model
        self._update_interval = update_interval
        self._page_size = page_size
        self._admission = Admission(places=max_concurrent, max_waiting=max_queue)
        language_model = model.language_model
        on_cpu = language_model.device.type == "cpu"
        context_tokens = model.info.context_tokens
        self._text_embedding = language_model.get_input_embeddings()
        embedding = ImageTokenEmbedding(
            self._text_embedding,
            num_slots=num_image_slots
            or image_slots(
                context_tokens=context_tokens, num_image_tokens=model.num_image_tokens, max_concurrent=max_concurrent
            ),
            num_image_tokens=model.num_image_tokens,
            embed_scale=model.embed_scale,
        )
        self._bank = ImageBank(embedding)
        config, copy_tokens = batching_config(
            language_model,
            context_tokens=context_tokens,
            max_concurrent=max_concurrent,
            max_batch_tokens=max_batch_tokens or (512 if on_cpu else 2048),
            page_size=page_size,
            kv_bytes=kv_bytes,
            with_copies=not can_use_graphs(language_model),
        )
        self._loop = GenerationLoop(
            language_model,
            config=config,
            busy_prefill_tokens=busy_prefill_tokens or (10 if on_cpu else None),
            context_tokens=context_tokens,
            copy_tokens=copy_tokens,
            eos_token_ids=model.eos_token_ids,
            penalised_ids=model.penalised_ids,
            stops=stop_check(model.tokenizer.decode, model.prompt_format),
        )
        self._keys: dict[int, tuple[weakref.ref[Image.Image], str]] = {}
        self._lock = threading.Lock()
        # On a CPU a pass over two images takes as long as two passes.
        self._encoder = ImageEncoder(model, at_once=1 if on_cpu else _IMAGES_AT_ONCE)
        self._is_started = False
        self._must_renew_ids = False
        self._encoded = self._reused = self._prompt_tokens = 0

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return self._model.info

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken."""
        return self._model.prompt_format.neutralise(text)

    def start(self) -> ChatEngine:
        """Allocate the caches and start the generation thread. The model is for inference alone from then on."""
        pack_weights(self._model)
        self._model.language_model.set_input_embeddings(self._bank.embedding)
        self._is_started = True
        try:
            self._loop.start()
        except Exception as error:
            self.close()
            if is_out_of_memory(error):
                raise NotEnoughMemory(f"No memory for the KV cache on {self.info.device}: {error}") from error
            raise
        return self

    def close(self) -> None:
        """End all answers, stop the thread, and give the model its own embedding back."""
        self._loop.close()
        self._model.language_model.set_input_embeddings(self._text_embedding)

    def __enter__(self) -> ChatEngine:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> AnswerStream:
        """Answers so far, the last with a `finish_reason`. Closing the iterator, from any thread, frees the model.

        Raises MiniVLMError for what the user can mend, here or at the first `next`. An error of the model itself ends
        every running answer with LoopStopped; the next question works again.
        """
        if not self._is_started:
            raise RuntimeError("The engine is not started; use it in a with block.")
        turns, sampling = tuple(turns), check_sampling(sampling)
        check_turns(self._model, turns)
        return AnswerStream(
            model=self._model,
            loop=self._loop,
            admission=self._admission,
            submit=self._submit,
            turns=turns,
            sampling=sampling,
            interval=self._update_interval,
        )

    def routing(self, turns: Sequence[Turn], answer: str, sampling: Sampling) -> RoutingTrace:
        """Which experts the tokens of a conversation and its answer go to, by one more pass over them, in this thread.

        `sampling` is the answer's, as it decides which turns fit the context. Only for models with `info.has_experts`.
        """
        prompt = fit_prompt(self._model, tuple(turns), sampling.max_new_tokens)
        with self._pin(prompt.images) as pinned:
            ids: list[int] = []
            images: list[int | None] = []
            count = 0
            for is_image, new in self._ids(prompt, pinned):
                ids, images, count = ids + new, images + [count if is_image else None] * len(new), count + is_image
            written = self._model.tokenizer.encode(self._model.prompt_format.answer_prefix + answer)
            with self._encoder.lock:  # one such pass at a time bounds its memory
                return trace_routing(self._model, ids + written, images + [None] * len(written))

    def stats(self) -> EngineStats:
        """Counters for tests and metrics."""
        in_use, kept, total = self._loop.pages()
        return EngineStats(
            active=self._admission.num_active,
            waiting=self._admission.num_waiting,
            in_loop=self._loop.num_active,
            known_to_loop=self._loop.num_known,
            pages_in_use=in_use,
            images_pinned=self._bank.num_pinned,
            pages_kept=kept,
            pages_total=total,
            images_held=self._bank.num_held,
            image_slots=self._bank.embedding.num_slots,
            page_bytes=kv_bytes_per_token(self._model.language_model) * self._page_size,
            copy_bytes=kv_bytes_per_token(self._model.language_model) * self._loop.copy_tokens,
            image_bytes=self._bank.embedding.rows.nbytes // self._bank.embedding.num_slots,
            images_encoded=self._encoded,
            images_reused=self._reused,
            prompt_tokens=self._prompt_tokens,
            prompt_tokens_reused=self._loop.num_reused,
            restarts=self._loop.num_restarts,
            steps_captured=self._loop.num_captured,
        )

    # The rest runs in the thread of whoever reads the answer ----------------------------------------------------------

    def _submit(self, turns: Sequence[Turn], sampling: Sampling) -> Submission:
        prompt = fit_prompt(self._model, turns, sampling.max_new_tokens)
        pinned = self._pin(prompt.images)
        try:
            ids = [token for _, new in self._ids(prompt, pinned) for token in new]
            ticket = self._loop.submit(ids, replace(sampling, max_new_tokens=prompt.max_new_tokens))
        except BaseException as error:
            pinned.release()
            if is_out_of_memory(error):
                raise NotEnoughMemory(f"No memory for this question on {self.info.device}: {error}") from error
            raise
        with self._lock:
            self._prompt_tokens += prompt.num_tokens
        return Submission(ticket=ticket, prompt=prompt, images=pinned)

    def _pin(self, images: Sequence[Image.Image]) -> PinnedImages:
        with self._lock:
            if self._must_renew_ids:
                self._renew_ids()
        try:
            return self._bank.pin(map(self._key, images), timeout=_IMAGE_WAIT)
        except ImageIdsExhausted:
            self._must_renew_ids = True  # by the next request that finds no other one running
            raise Busy("The server renews its image ids, which takes a moment; ask again.") from None

    def _renew_ids(self) -> None:
        """After some million images: forget all of them and everything cached under their ids."""
        if self._bank.num_pinned or self._loop.num_active:
            raise Busy("The server renews its image ids, which takes a moment; ask again.")
        self._bank.reset()
        self._loop.restart()
        self._must_renew_ids = False

    def _ids(self, prompt: Prompt, pinned: PinnedImages) -> Iterator[tuple[bool, list[int]]]:
        """Whether a part of the prompt is an image, which is encoded if it must be, and its token ids."""
        for part in prompt.parts:
            yield (True, self._image_ids(pinned, part)) if isinstance(part, Image.Image) else (False, part)

    def _image_ids(self, pinned: PinnedImages, image: Image.Image) -> list[int]:
        was_encoded = False

        def encode() -> Tensor:
            nonlocal was_encoded
            was_encoded = True
            return self._encoder.encode(image)

        ids = pinned.fill(self._key(image), encode)
        with self._lock:
            self._encoded += was_encoded
            self._reused += not was_encoded
        return ids

    def _key(self, image: Image.Image) -> str:
        """The content key, computed once per image object: a long chat asks for the same one every turn."""
        known = self._keys.get(id(image))
        if known is not None and known[0]() is image:
            return known[1]
        key = self._model.image_key(image)
        number = id(image)

        def forget(_: object) -> None:
            self._keys.pop(number, None)

        self._keys[number] = (weakref.ref(image, forget), key)
        return key
