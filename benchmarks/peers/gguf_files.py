"""A release's folder as a GGUF file, which llama.cpp and OpenVINO GenAI read."""

from __future__ import annotations

import re
from pathlib import Path

import gguf

from benchmarks.peers.tensors import Array, settings, tensors

_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(folder: Path, path: Path, kind: str) -> None:
    """Write it, unless it is there. `kind` is that of the matrices: F32, F16, BF16, Q8_0 or Q4_0 of gguf's types."""
    if path.is_file():
        return
    config, part = settings(folder), path.with_suffix(".part")
    heads, pairs = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(pairs)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"))
    _add_vocabulary(writer, config["vocab_size"])
    wanted = gguf.GGMLQuantizationType[kind]
    for name, values in tensors(folder):
        is_matrix = values.ndim > 1
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _interleaved(values, heads if "q_proj" in name else pairs)
        data = gguf.quants.quantize(values, wanted) if is_matrix and kind != "F32" else values
        writer.add_tensor(_name(name), data, raw_dtype=wanted if is_matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)


def _name(released: str) -> str:
    plain = released.removesuffix(".weight")
    if (found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", plain)) is not None:
        return f"blk.{found[1]}.{_NAMES[found[2]]}.weight"
    return f"{_NAMES[plain]}.weight"


def _interleaved(weight: Array, heads: int) -> Array:
    """llama.cpp turns neighbouring numbers of a head, transformers those half a head apart."""
    turned = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2)
    return turned.reshape(weight.shape)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Pieces that nobody will write, as prompts are given as ids; with all that OpenVINO GenAI asks of a vocabulary."""
    special = ["<unk>", "<s>", "</s>"]
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*special, *(f"piece{i}" for i in range(len(special), size))])
    writer.add_token_types([control if i < len(special) else normal for i in range(size)])
    writer.add_token_merges(["p i"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{{ messages }}")
