"""CTranslate2: `python -m benchmarks.peers.ctranslate2_peer WEIGHTS OWN PRECISION`. Of 16 and 4 bits a CPU has none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.specs import Activation, TransformerDecoderModelSpec, TransformerDecoderSpec

from benchmarks.peers.peer_process import Ids, serve
from benchmarks.peers.tensors import settings, tensors

TYPES = {"fp32": None, "8bit": "int8"}


class CTranslate2:
    """A generator with one thread."""

    def __init__(self, folder: Path, size: int) -> None:
        self._generator = ctranslate2.Generator(str(folder), device="cpu", inter_threads=1, intra_threads=1)
        self._pieces = pieces(size)
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}

    def generate(self, prompts: Sequence[Ids], new: int) -> list[Ids]:
        """See Peer."""
        found = self._generator.generate_batch(
            [[self._pieces[i] for i in prompt] for prompt in prompts],
            max_length=new, min_length=new, sampling_topk=1, beam_size=1, include_prompt_in_result=False,
        )  # fmt: skip
        return [list(result.sequences_ids[0]) for result in found]


def pieces(size: int) -> list[str]:
    """A vocabulary that nobody will write."""
    special = ["<unk>", "<s>", "</s>"]
    return [*special, *(f"piece{i}" for i in range(len(special), size))]


def write_model(weights: Path, folder: Path, kind: str | None) -> None:
    """The weights in CTranslate2's own format, unless they are there."""
    if (folder / "model.bin").is_file():
        return
    config = settings(weights)
    decoder = TransformerDecoderSpec(
        config["num_hidden_layers"], config["num_attention_heads"], activation=Activation.SWISH, pre_norm=True,
        with_encoder_attention=False, ffn_glu=True, rms_norm=True, rotary_dim=0, rotary_interleave=False,
        num_heads_kv=config["num_key_value_heads"], rotary_base=config["rope_parameters"]["rope_theta"],
    )  # fmt: skip
    spec = TransformerDecoderModelSpec(decoder)
    found = dict(tensors(weights))
    spec.decoder.scale_embeddings = False
    spec.decoder.embeddings.weight = found["model.embed_tokens.weight"]
    spec.decoder.projection.weight = found["lm_head.weight"]
    spec.decoder.layer_norm.gamma = found["model.norm.weight"]
    for index, layer in enumerate(spec.decoder.layer):

        def weight(name: str, index: int = index) -> np.ndarray:
            return found.pop(f"model.layers.{index}.{name}.weight")

        layer.self_attention.layer_norm.gamma = weight("input_layernorm")
        layer.ffn.layer_norm.gamma = weight("post_attention_layernorm")
        joined = [weight(f"self_attn.{name}_proj") for name in "qkv"]
        layer.self_attention.linear[0].weight = np.concatenate(joined)
        layer.self_attention.linear[1].weight = weight("self_attn.o_proj")
        layer.ffn.linear_0.weight = weight("mlp.gate_proj")
        layer.ffn.linear_0_noact.weight = weight("mlp.up_proj")
        layer.ffn.linear_1.weight = weight("mlp.down_proj")
        for name in ("layer_norm", "self_attention_layer_norm"):
            if hasattr(layer, name):
                delattr(layer, name)
    spec.register_vocabulary(pieces(config["vocab_size"]))
    spec.config.layer_norm_epsilon = config["rms_norm_eps"]
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = "<unk>", "<s>", "</s>"
    spec.validate()
    spec.optimize(quantization=kind)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def main(weights: Path, own: Path, precision: str) -> None:
    """Make the folder, then answer."""
    folder = own / precision
    size = settings(weights)["vocab_size"]
    serve(lambda: write_model(weights, folder, TYPES[precision]), lambda: CTranslate2(folder, size))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
