"""OpenVINO GenAI: `python -m benchmarks.peers.openvino_peer WEIGHTS OWN PRECISION`.

It makes its graph from a GGUF file in 16 bits, which holds the weights exactly, and nncf compresses that.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nncf
import numpy as np
import openvino
import openvino_genai

from benchmarks.peers.gguf_files import write_gguf
from benchmarks.peers.peer_process import Ids, serve
from benchmarks.peers.tensors import settings

_GRAPH = "openvino_model.xml"
_COMPRESSED = {
    "8bit": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
    "4bit": {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": 128, "ratio": 1.0},
}
_SMALL_GROUP = {"group_size": 32}  # where a row is no multiple of 128
_COMPUTED = {
    "fp32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},  # its cache has 8 bits otherwise
    "16bit": {"INFERENCE_PRECISION_HINT": "bf16"},
    "8bit": {"INFERENCE_PRECISION_HINT": "f32"},
    "4bit": {"INFERENCE_PRECISION_HINT": "f32"},
}


class OpenVino:
    """Its continuous batching, with its cache of prefixes."""

    def __init__(self, folder: Path, computed: dict[str, str]) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size, scheduler.enable_prefix_caching, scheduler.max_num_batched_tokens = 1, True, 512
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", {"INFERENCE_NUM_THREADS": 1, **computed}
        )

    def generate(self, prompts: Sequence[Ids], new: int) -> list[Ids]:
        """See Peer."""
        config = openvino_genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
        asked = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        found = self._pipeline.generate(asked, [config] * len(asked))
        return [list(map(int, result.m_generation_ids[0])) for result in found]


def write_model(weights: Path, own: Path, precision: str) -> None:
    """Its model, exact and compressed, unless they are there."""
    exact = own / "exact"
    if not (exact / "openvino_detokenizer.xml").is_file():
        exact.mkdir(parents=True, exist_ok=True)
        write_gguf(weights, exact / "model.gguf", "F16")
        openvino_genai.LLMPipeline(str(exact / "model.gguf"), "CPU", enable_save_ov_model=True)
    folder = own / precision
    if precision in _COMPRESSED and not (folder / _GRAPH).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for path in exact.glob("openvino_*tokenizer.*"):
            shutil.copy(path, folder)
        model = openvino.Core().read_model(exact / _GRAPH)
        options = _COMPRESSED[precision]
        if precision == "4bit" and settings(weights)["hidden_size"] % 128:
            options = options | _SMALL_GROUP
        openvino.save_model(nncf.compress_weights(model, **options), folder / _GRAPH)


def main(weights: Path, own: Path, precision: str) -> None:
    """Make the folder, then answer."""
    folder = own / (precision if precision in _COMPRESSED else "exact")
    serve(lambda: write_model(weights, own, precision), lambda: OpenVino(folder, _COMPUTED[precision]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
