"""A language model's decode step in C, one token for each of some chats.

B chats, V vocabulary, L tokens of the longest so far, C room for tokens, K key and value heads, D head width.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GemmaForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    MixtralForCausalLM,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    StableLmForCausalLM,
)

from engine.native.decoder_layers import DecoderWriter, product_of
from engine.native.operations import (
    MOST_CHATS,
    MOST_ROWS,
    ChatSpan,
    Operation,
    OperationKind,
    Program,
    StepInputs,
    array_of,
)
from engine.native.prompt_pieces import Piece, PieceRead
from engine.native.weight_formats import NativeWeights
from models.native.compiled import NoNativeCode, library
from models.native.integer_products import WIDE

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("step.c")
_FORWARDS = [
    model.forward
    for model in (
        *(GemmaForCausalLM, LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM),
        *(PhiForCausalLM, Qwen2ForCausalLM, StableLmForCausalLM),
    )
]
_LIKE_ROTARY = ("default", "linear", "llama3", "yarn")  # kinds of rotary embeddings that depend on the position alone
_LEAST_POSITIONS = 1024
_ROUNDING = {torch.float32: 1e-4}  # of the largest output, by which products may differ; for other formats:
_COARSE = 0.05


def native_step(model: PreTrainedModel) -> NativeStep | None:
    """The model's decode step in C, or None where there is none, for which the log has the reason."""
    try:
        return NativeStep(model)
    except NoNativeCode as reason:
        if model.device.type == "cpu":
            logger.info("Answers are written without compiled code: %s.", reason)
        return None


class NativeStep:
    """Decodes for at most MOST_CHATS chats. Raises NoNativeCode where C can't do what the model does.

    Not for several threads at a time.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if type(model).forward not in _FORWARDS or "forward" in vars(model):
            raise NoNativeCode(f"{type(model).__name__} is none of the language models that it knows")
        self._model = model
        self._library = library(_SOURCE)
        if model.device.type != "cpu" or model.dtype not in (torch.float32, torch.bfloat16):
            raise NoNativeCode(f"it is for float32 and bfloat16 on a CPU, not for {model.dtype}")
        self._rotary: Any = model.model.rotary_emb
        if getattr(self._rotary, "rope_type", None) not in _LIKE_ROTARY:
            raise NoNativeCode("its positions are encoded in another way")
        writer = DecoderWriter(model)
        missing = {weights.number_format for weights in writer.products if not self._has(weights)}
        if missing:
            raise NoNativeCode(f"this processor lacks instructions for {', '.join(one.name for one in missing)}")
        self._compare(writer.products, model.dtype)
        self._program, self._hidden, self._logits = writer.program, writer.hidden, writer.logits
        self._products = writer.products  # they hold what operations point to
        self._operations = array_of(writer.program.operations)
        self._vocabulary = writer.vocabulary
        self.num_outputs: int = writer.program.widths[writer.logits.buffer]
        self._num_positions = self._room = 0
        self._found = torch.empty(0, dtype=torch.int32)

    def _has(self, weights: NativeWeights) -> bool:
        return bool(self._library.formats() >> weights.number_format & 1)

    def takes(self, ids: Sequence[int]) -> bool:
        """Whether it can decode these tokens of so many chats now: where somebody looks into the model, it can't."""
        return len(ids) <= MOST_CHATS and max(ids) < self._vocabulary and not self._is_watched

    @property
    def _is_watched(self) -> bool:
        return bool(self._model._forward_pre_hooks or self._model._forward_hooks)

    @property
    def reads(self) -> bool:
        """Whether it can read prompts now, and is quicker at that: with AMX, of which only oneDNN knows, it is not."""
        is_quick = self._model.dtype == torch.float32 or not torch.cpu._is_amx_tile_supported()
        return is_quick and not self._is_watched

    def run(
        self, ids: Sequence[int], positions: Sequence[int], starts: Sequence[int], length: int, cache: Sequence[Tensor]
    ) -> Tensor:
        """The logits [B, V] in fp32, which the next call overwrites.

        `cache` are keys and values [layers, B, K, C, D], of which `length` tokens count, the new one included, in each
        chat from `starts` on.
        """
        count = len(ids)
        self._make_room(count, max(positions))
        keys, values = cache
        layer_stride, request_stride, head_stride, *_ = keys.stride()
        numbers = ctypes.c_int32 * count
        held = [numbers(*ids), numbers(*positions), numbers(*starts)]
        inputs = StepInputs(
            *map(ctypes.addressof, held), ctypes.addressof(self._buffers), ctypes.addressof(self._widths),
            self._scratch.data_ptr(), keys.data_ptr(), values.data_ptr(), layer_stride, request_stride, head_stride,
            count, length, keys.dtype == torch.bfloat16, torch.get_num_threads(),
        )  # fmt: skip
        self._library.run(self._operations, len(self._operations), ctypes.byref(inputs))
        return self._memory[self._logits.buffer][:count]

    def read(self, piece: Piece, rows: Tensor, pages: ctypes.Array[ctypes.c_void_p], *, is_bf16: bool) -> PieceRead:
        """Read tokens of some prompts, and the newest of some answers; see Piece.

        `rows` [keys of all chats] int64 are those of the pages in which these lie, `pages` by layer where the rows of
        keys are and those of values, [K * D] each. New ones are written there; what is not finite becomes 0.
        """
        count = len(piece.ids)
        self._make_room(count, max(piece.positions))
        is_text = max(piece.ids) < self._vocabulary
        if not is_text:
            embedded = self._model.get_input_embeddings()(torch.tensor([piece.ids]))
            self._memory[self._hidden.buffer][:count] = embedded[0]
        are_broken = torch.zeros(count, dtype=torch.int32)
        ids, positions = ((ctypes.c_int32 * count)(*values) for values in (piece.ids, piece.positions))
        kept = (ctypes.c_int32 * len(piece.kept))(*piece.kept)
        spans = (ChatSpan * len(piece.spans))(*starmap(ChatSpan, piece.spans))
        inputs = StepInputs(
            ids=ctypes.addressof(ids), positions=ctypes.addressof(positions), buffers=ctypes.addressof(self._buffers),
            widths=ctypes.addressof(self._widths), scratch=self._scratch.data_ptr(), tokens=count, is_bf16=is_bf16,
            threads=torch.get_num_threads(), spans=ctypes.addressof(spans), rows=rows.data_ptr(),
            pages=ctypes.addressof(pages), are_broken=are_broken.data_ptr(), kept=ctypes.addressof(kept),
            num_spans=len(spans), num_kept=len(kept), found=self._found.data_ptr(),
        )  # fmt: skip
        first = 0 if is_text else 1  # the first looks up the embedding of text
        operations = ctypes.byref(self._operations, first * ctypes.sizeof(Operation))
        self._library.run(operations, len(self._operations) - first, ctypes.byref(inputs))
        return PieceRead(self._memory[self._logits.buffer][: len(kept)], are_broken.bool())

    def _make_room(self, count: int, position: int) -> None:
        """For so many chats, and for tables up to this position."""
        if count > self._room:
            self._room = count
            self._memory, self._scratch = self._program.allocate(count)
            self._buffers = (ctypes.c_void_p * len(self._memory))(*(tensor.data_ptr() for tensor in self._memory))
            self._widths = (ctypes.c_int32 * len(self._memory))(*self._program.widths)
        if torch.get_num_threads() > len(self._found):
            self._found = torch.empty(torch.get_num_threads(), MOST_ROWS, WIDE, dtype=torch.int32)
        if position >= self._num_positions:
            self._num_positions = max(_LEAST_POSITIONS, 2 * position)
            positions = torch.arange(self._num_positions).unsqueeze(0)
            tables = self._rotary(torch.empty(0), positions)  # cosines and sines [1, positions, 2 x half]
            self._tables = [table[0, :, : table.shape[2] // 2].float().contiguous() for table in tables]
            for operation in self._operations:
                if operation.kind == OperationKind.ROTATE:
                    operation.weights, operation.scales = (table.data_ptr() for table in self._tables)

    def _compare(self, products: Sequence[NativeWeights], dtype: torch.dtype) -> None:
        """Multiply once with a matrix of each size: raises NoNativeCode where its layer gives something else."""
        generator = torch.Generator().manual_seed(0)
        sizes = {(one.number_format, one.outputs, one.inputs): one for one in products}
        for weights in sizes.values():
            rows = torch.randn(3, weights.inputs, generator=generator)
            rows[1, 0] = 100  # far above the others
            rows = rows.to(dtype)
            expected = weights.layer(rows).float()
            found = self._product(weights, rows.float())
            allowed = _ROUNDING.get(dtype, _COARSE) if weights.scales is None else _COARSE
            if not (found - expected).abs().amax() <= allowed * expected.abs().amax():
                raise NoNativeCode(f"its products with {weights.number_format.name} weights differ from the layer's")

    def _product(self, weights: NativeWeights, rows: Tensor) -> Tensor:
        """The product of some rows [T, K] alone, [T, N]."""
        program = Program()
        source, target = program.buffer(weights.inputs), program.buffer(weights.outputs)
        program.operations.append(product_of(program, weights, source, target))
        (inputs, outputs), scratch = program.allocate(len(rows))
        inputs.copy_(rows)
        buffers = (ctypes.c_void_p * 2)(inputs.data_ptr(), outputs.data_ptr())
        widths = (ctypes.c_int32 * 2)(*program.widths)
        step = StepInputs(
            buffers=ctypes.addressof(buffers), widths=ctypes.addressof(widths), scratch=scratch.data_ptr(),
            tokens=len(rows), threads=1,
        )  # fmt: skip
        self._library.run(array_of(program.operations), 1, ctypes.byref(step))
        return outputs
