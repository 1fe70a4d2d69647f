"""What a released file is, by the names and sizes of its tensors, whatever it is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from models.inspection.file_headers import TensorHeader

TensorHeaders = Mapping[str, TensorHeader]

_LORA = re.compile(r"\.lora_[AB]\.")


def describe(tensors: TensorHeaders) -> str:
    """What these tensors are of, in one phrase."""
    if not tensors:
        return "no tensors"
    found = next(_known(tensors), None)
    names = ", ".join(sorted(tensors)[:3])
    return found if found is not None else f"nothing that is known here (its tensors: {names}, …)"


def _known(tensors: TensorHeaders) -> Iterator[str]:
    """Descriptions that fit, the most particular first."""
    if "llama_proj2.weight" in tensors:
        yield _tinygpt_v(tensors)
    if "llama_proj.weight" in tensors:
        yield _minigpt(tensors)
    if _has(tensors, r"^base_model\.model\..*\.lora_[AB]\."):
        full = [name for name in tensors if ".lora_" not in name]
        beside = f", and {len(full)} tensors that were trained in full" if full else ""
        yield f"a LoRA adapter of rank {_lora_rank(tensors)}{beside}, to go on top of its base model (key adapter)"
    if _has(tensors, r"vlm_uni_"):
        whole = _has(tensors, r"^model\.layers\.")
        yield f"a whole Mini-Gemini, {_language_model(tensors)}" if whole else "Mini-Gemini's connector (stage 1)"
    if _has(tensors, r"mm_projector\.image_spatial_proj"):
        if not _has(tensors, r"\.layers\.|transformer\.h\."):
            yield "MoE-LLaVA's projector (stage 1)"
        experts = "with experts" if _has(tensors, r"deepspeed_moe|\.experts\.") else "without experts (stage 2)"
        yield f"a whole MoE-LLaVA {experts}, {_language_model(tensors)}"
    if _has(tensors, r"mm_projector\."):
        yield "a projector of the LLaVA line, of no family that is known here"
    if _has(tensors, _LORA.pattern):
        yield f"a LoRA adapter, rank {_lora_rank(tensors)}, to be merged into its base model"
    if "query_tokens" in tensors or _has(tensors, r"^Qformer\."):
        yield "BLIP-2's Q-Former"
    if _has(tensors, r"^(visual_encoder\.)?blocks\.\d+\.attn\.qkv\.weight"):
        yield f"an EVA vision tower of {_depth(tensors, 'blocks')} blocks{_width(tensors, 'blocks')}"
    if _has(tensors, r"vision_model\.(encoder|embeddings)"):
        yield "a CLIP or SigLIP model"
    if _has(tensors, r"visual\.trunk\.stages|^stages\.\d+"):
        yield "a ConvNeXt vision tower (OpenCLIP)"
    if _has(tensors, r"embed_tokens|\bwte\b|embed_in|lm_head"):
        yield _language_model(tensors)


def _tinygpt_v(tensors: TensorHeaders) -> str:
    rank = _lora_rank(tensors)
    lora = f"LoRA of rank {rank}" if rank else "no LoRA"
    qformer = ", and a trained Q-Former" if _has(tensors, r"^(Qformer\.|query_tokens)") else ""
    return f"a TinyGPT-V stage file: projections, norms, {lora}{qformer}"


def _minigpt(tensors: TensorHeaders) -> str:
    text, vision = tensors["llama_proj.weight"].shape[:2] or (0, 0)
    size = {4096: "7B", 5120: "13B"}.get(text, f"width {text}")
    if rank := _lora_rank(tensors):
        return f"MiniGPT-v2's projection and LoRA of rank {rank}, for a language model of {size}"
    kind = "Vicuna, with a Q-Former" if vision == 768 else "Llama-2, without a Q-Former" if vision == 5632 else ""
    return f"MiniGPT-4's projection ({kind or f'from width {vision}'}), for a language model of {size}"


def _language_model(tensors: TensorHeaders) -> str:
    rows = next((t.shape for n, t in tensors.items() if re.search(r"embed_tokens\.|\bwte\.", n)), (0, 0))
    layers = _depth(tensors, "layers") or _depth(tensors, "h")
    size = f"{layers} layers, width {rows[-1]}, {rows[0]} pieces" if len(rows) == 2 else f"{layers} layers"
    return f"a language model of {size}"


def _has(tensors: TensorHeaders, pattern: str) -> bool:
    return any(re.search(pattern, name) for name in tensors)


def _lora_rank(tensors: TensorHeaders) -> int:
    """The rank of the LoRA in there; 0 where there is none."""
    return next((t.shape[0] for n, t in tensors.items() if ".lora_A." in n and t.shape), 0)


def _depth(tensors: TensorHeaders, name: str) -> int:
    numbers = {
        int(match[1])
        for key in tensors
        if "vision_tower" not in key and "image_tower" not in key
        if (match := re.search(rf"(?:^|\.){name}\.(\d+)\.", key))
    }
    return len(numbers)


def _width(tensors: TensorHeaders, blocks: str) -> str:
    shape = next((t.shape for n, t in tensors.items() if re.search(rf"{blocks}\.0\.attn\.qkv\.weight", n)), ())
    return f", width {shape[-1]}" if shape else ""
