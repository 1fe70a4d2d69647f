"""llama.cpp, through its C interface: `python -m benchmarks.peers.llama_cpp_peer WEIGHTS OWN PRECISION`."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np

from benchmarks.peers.gguf_files import write_gguf
from benchmarks.peers.peer_process import Ids, serve

# Of its kinds of 4 bits the one whose products are quickest.
KINDS = {"fp32": "F32", "16bit": "BF16", "8bit": "Q8_0", "4bit": "Q4_0"}
_CONTEXT, _CHATS, _STEP = 2048, 8, 512


class LlamaCpp:
    """A model with a context for eight chats, of which the first keeps what it has read."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_load_model_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max = _CONTEXT * _CHATS, _CHATS
        options.n_batch = options.n_ubatch = _STEP
        options.n_threads = options.n_threads_batch = 1
        self._context = llama_cpp.llama_new_context_with_model(self._model, options)
        if not self._context:
            raise SystemExit(f"llama.cpp could not load {path}.")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_n_vocab(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(_STEP, 0, 1)
        self._known: Ids = []

    def generate(self, prompts: Sequence[Ids], new: int) -> list[Ids]:
        """See Peer."""
        same = 0
        if len(prompts) == 1:
            while same < min(len(self._known), len(prompts[0]) - 1) and self._known[same] == prompts[0][same]:
                same += 1
        for chat in range(_CHATS):
            llama_cpp.llama_memory_seq_rm(self._memory, chat, 0 if chat else same, -1)
        rows = [
            (chat, place, token, place == len(prompt) - 1)
            for chat, prompt in enumerate(prompts)
            for place, token in list(enumerate(prompt))[same:]
        ]
        found: dict[int, Ids] = {chat: [] for chat in range(len(prompts))}
        for step in range(0, len(rows), _STEP):
            for chat, token in self._decode(rows[step : step + _STEP]).items():
                found[chat].append(token)
        for count in range(1, new):
            rows = [(chat, len(prompts[chat]) + count - 1, ids[-1], True) for chat, ids in found.items()]
            for chat, token in self._decode(rows).items():
                found[chat].append(token)
        self._known = prompts[0] + found[0][:-1]
        return [found[chat] for chat in range(len(prompts))]

    def _decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> dict[int, int]:
        """One step over (chat, place, token, whether the next is asked for): the likeliest next token of chats."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (chat, place, token, is_asked) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, place, 1
            batch.seq_id[index][0], batch.logits[index] = chat, is_asked
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise SystemExit("llama.cpp could not decode a step.")
        return {
            chat: int(np.ctypeslib.as_array(self._logits(index), shape=(self._vocabulary,)).argmax())
            for index, (chat, _, _, is_asked) in enumerate(rows)
            if is_asked
        }

    def _logits(self, index: int) -> ctypes.Array[ctypes.c_float]:
        logits: ctypes.Array[ctypes.c_float] = llama_cpp.llama_get_logits_ith(self._context, index)
        return logits


def main(weights: Path, own: Path, precision: str) -> None:
    """Make the file, then answer."""
    path = own / f"{precision}.gguf"
    serve(lambda: write_gguf(weights, path, KINDS[precision]), lambda: LlamaCpp(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
