"""What released models take in memory: known before their files are here, where `sizes.py` adds it up from tensors.

The figures are README's, which tests compare with what loading prints for the released sizes.
"""

from __future__ import annotations

PRECISIONS = ("16 bit", "8bit", "4bit")
_GIB = 2**30

# family -> language_model -> GiB of all weights in each of PRECISIONS, as README's table has them.
_RELEASED: dict[str, dict[str, tuple[float, float, float]]] = {
    "minigpt_v2": {"meta-llama/Llama-2-7b-chat-hf": (14.4, 8.4, 5.8)},
    "minigpt4": {
        "Vision-CAIR/vicuna-7b": (14.6, 8.6, 5.9),
        "Vision-CAIR/vicuna": (26.3, 14.5, 9.3),
        "meta-llama/Llama-2-7b-chat-hf": (14.4, 8.4, 5.8),
    },
    "tinygpt_v": {"microsoft/phi-2": (7.2, 4.9, 3.9)},
    "mini_gemini": {
        "lmsys/vicuna-7b-v1.5": (13.5, 7.5, 4.8),
        "YanweiLi/MGM-2B": (5.6, 3.8, 2.9),
        "YanweiLi/MGM-7B": (13.5, 7.5, 4.8),
        "YanweiLi/MGM-8B": (15.9, 9.4, 6.6),
        "YanweiLi/MGM-13B": (25.2, 13.5, 8.2),
        "YanweiLi/MGM-34B": (65.1, 34.0, 20.3),
        "YanweiLi/MGM-8x7B": (88.0, 44.9, 25.8),
    },
    "moe_llava": {
        "microsoft/phi-2": (5.7, 3.4, 2.4),
        "LanguageBind/MoE-LLaVA-StableLM-1.6B-4e": (6.1, 3.8, 2.8),
        "LanguageBind/MoE-LLaVA-StableLM-Stage2": (3.8, 2.7, 2.2),
        "LanguageBind/MoE-LLaVA-Qwen-1.8B-4e": (6.2, 4.0, 3.0),
        "LanguageBind/MoE-LLaVA-Qwen-Stage2": (4.0, 2.8, 2.3),
        "LanguageBind/MoE-LLaVA-Phi2-2.7B-4e": (10.6, 6.0, 3.9),
        "LanguageBind/MoE-LLaVA-Phi2-Stage2": (5.9, 3.6, 2.6),
        "LanguageBind/MoE-LLaVA-OpenChat-7B-4e": (29.8, 15.5, 9.2),
    },
}
_VARIANTS = ("-HD", "-384")  # of pictures in more pixels: other weights, hardly more of them


def released_sizes(family: str, language_model: str) -> dict[str, int] | None:
    """Bytes of all weights in float32 and each of PRECISIONS; None for a model that is not among the released ones.

    `language_model` is the value of that key in its YAML.
    """
    name = language_model
    for ending in _VARIANTS:
        name = name.removesuffix(ending)
    found = _RELEASED.get(family, {}).get(name)
    if found is None:
        return None
    sizes = {label: round(gib * _GIB) for label, gib in zip(PRECISIONS, found, strict=True)}
    return {"float32": 2 * sizes["16 bit"], **sizes}
