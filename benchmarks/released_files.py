"""Random files in the released formats and sizes, written tensor by tensor: names, shapes and types are the real ones.

The layouts in tests/data/layouts hold those of the families' own files; a Llama's are made from its configuration. The
values keep activations in range, so that such a model computes what a real one does in the same time; its answers mean
nothing. Tokenizers are those of the bundled models with made-up pieces up to the released number.
"""

from __future__ import annotations

import base64
import json
import mmap
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
LAYOUTS = ROOT / "tests" / "data" / "layouts"
BUNDLED = ROOT / "checkpoints"

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> shape and type of every tensor of a file."""

LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
PHI_2 = {
    "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 51200, "partial_rotary_factor": 0.4, "tie_word_embeddings": False,
    "bos_token_id": 50256, "eos_token_id": 50256, "max_position_embeddings": 2048,
}  # fmt: skip
STABLELM = {
    "model_type": "moe_llava_stablelm", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100352, "rope_pct": 0.25, "norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}  # fmt: skip
GEMMA_2B = {
    "model_type": "mgm", "architectures": ["MGMGemmaForCausalLM"], "hidden_size": 2048, "intermediate_size": 16384,
    "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
    "vocab_size": 256000, "tie_word_embeddings": True, "image_size_aux": 768, "image_aspect_ratio": "pad",
    "max_position_embeddings": 8192, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip

_SHARD = 5 * 10**9  # bytes, as the published folders are cut
_POOL = 2**22  # random values that are drawn once and repeated
_UNUSED_VALUES = ("int64", "bool", "uint8")  # buffers that nobody loads


@dataclass(frozen=True, kw_only=True)
class Release:
    """The files of one released variant: what each is called and who writes it into that place."""

    config: str
    files: Mapping[str, Callable[[Path], None]]
    sizes: Mapping[str, int]

    @property
    def num_bytes(self) -> int:
        """What all files take on the disk."""
        return sum(self.sizes.values())


def releases() -> dict[str, Release]:
    """By family, the variant that stands for it."""
    eva, blip2 = layout_of("tinygpt_v/eva_vit_g.pth"), layout_of("tinygpt_v/blip2_pretrained_flant5xxl.pth")
    common = {"eva_vit_g.pth": (eva, False), "blip2_pretrained_flant5xxl.pth": (blip2, True)}
    return {
        "minigpt4": _release(
            "minigpt4_vicuna0_7b",
            {**common, "minigpt4/prerained_minigpt4_7b.pth": (layout_of("minigpt4/minigpt4_vicuna0_7b"), True)},
            "Vision-CAIR/vicuna-7b",
            llama_folder(LLAMA_7B | {"vocab_size": 32001}, is_pickled=True),
        ),
        "minigpt_v2": _release(
            "minigpt_v2",
            {
                "eva_vit_g.pth": (eva, False),
                "minigpt_v2/minigptv2_checkpoint.pth": (layout_of("minigpt4/minigpt_v2"), True),
            },
            "meta-llama/Llama-2-7b-chat-hf",
            llama_folder(LLAMA_7B | {"vocab_size": 32000}),
        ),
        "tinygpt_v": _release(
            "tinygptv_stage4",
            {**common, "tinygpt_v/TinyGPT-V_for_Stage4.pth": (layout_of("tinygpt_v/TinyGPT-V_for_Stage4.pth"), True)},
            "microsoft/phi-2",
            Folder(PHI_2, layout_of("tinygpt_v/phi-2-fused-folder"), _phi_tokenizer),
        ),
        "mini_gemini": _release(
            "mgm_2b", {}, "YanweiLi/MGM-2B", Folder(GEMMA_2B, layout_of("mini_gemini/MGM-2B"), _gemma_tokenizer)
        ),
        "moe_llava": _release(
            "moe_llava_stablelm",
            {},
            "LanguageBind/MoE-LLaVA-StableLM-1.6B-4e",
            Folder(
                STABLELM | {"moe": _experts_in_every_second(STABLELM["num_hidden_layers"])},
                layout_of("moe_llava/MoE-LLaVA-StableLM-1.6B-4e"),
                _stablelm_tokenizer,
            ),
        ),
    }


@dataclass(frozen=True)
class Folder:
    """A transformers folder: config.json, its weights, and who writes the tokenizer."""

    values: Mapping[str, Any]
    layout: Layout
    tokenizer: Callable[[Path], None]
    is_pickled: bool = False

    def write(self, folder: Path) -> None:
        """Everything, in shards of five gigabytes."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(dict(self.values)), encoding="utf-8")
        self.tokenizer(folder)
        shards: list[Layout] = [{}]
        for name, (shape, dtype) in self.layout.items():
            if shards[-1] and num_bytes(shards[-1]) + torch.Size(shape).numel() * dtype.itemsize > _SHARD:
                shards.append({})
            shards[-1][name] = (shape, dtype)
        stem, suffix = ("pytorch_model", "bin") if self.is_pickled else ("model", "safetensors")
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            file = folder / f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
            (write_pickle if self.is_pickled else write_safetensors)(file, shard)
            weight_map |= dict.fromkeys(shard, file.name)
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


def _release(config: str, pickles: Mapping[str, tuple[Layout, bool]], name: str, folder: Folder) -> Release:
    """`pickles`: place -> layout and whether the state dict is wrapped in {"model": …}. `name`: of the folder."""
    files: dict[str, Callable[[Path], None]] = {
        place: partial(write_pickle, layout=layout, is_wrapped=wrapped) for place, (layout, wrapped) in pickles.items()
    }
    sizes = {place: num_bytes(layout) for place, (layout, _) in pickles.items()}
    return Release(config=config, files={**files, name: folder.write}, sizes={**sizes, name: num_bytes(folder.layout)})


def llama_folder(values: Mapping[str, Any], *, is_pickled: bool = False) -> Folder:
    """A Llama in float16 with the tokenizer of its line."""
    values = {"model_type": "llama", "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, **values}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_dict(values))
    layout = {name: (tuple(tensor.shape), torch.float16) for name, tensor in model.state_dict().items()}
    return Folder(values, layout, lambda folder: _pieces(folder, "tiny_minigpt_v2/llama", 32000), is_pickled)


def layout_of(name: str) -> Layout:
    """A layout in tests/data/layouts."""
    shapes = json.loads((LAYOUTS / f"{name}.json").read_text(encoding="utf-8"))
    return {tensor: (tuple(shape), getattr(torch, dtype)) for tensor, (shape, dtype) in shapes.items()}


def num_bytes(layout: Layout) -> int:
    """What its tensors take."""
    return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in layout.values())


def write_pickle(path: Path, layout: Layout, *, is_wrapped: bool = False) -> None:
    """A torch file whose tensors are filled in the mapped file, so that none is ever in memory as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}
    with torch.serialization.skip_data():
        torch.save({"model": tensors} if is_wrapped else tensors, path)
    before = torch.serialization.get_default_mmap_options()
    torch.serialization.set_default_mmap_options(mmap.MAP_SHARED)
    try:
        content = torch.load(path, mmap=True, weights_only=True)
        for name, tensor in (content["model"] if is_wrapped else content).items():
            draw(name, tensor)
    finally:
        torch.serialization.set_default_mmap_options(before or mmap.MAP_PRIVATE)


def write_safetensors(path: Path, layout: Layout) -> None:
    """A safetensors file: the length of its header, the header, the tensors one after the other."""
    names = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, dtype) in layout.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (shape, dtype) in layout.items():
            tensor = torch.empty(shape, dtype=dtype)
            draw(name, tensor)
            file.write(tensor.flatten().view(torch.uint8).numpy().data)


@torch.no_grad()
def draw(name: str, tensor: Tensor) -> None:
    """Random values: matrices so that a layer keeps the size of its input, norms 1, vectors and LoRA's halves small."""
    if str(tensor.dtype).removeprefix("torch.") in _UNUSED_VALUES:
        tensor.zero_()
    elif tensor.dim() == 1 and name.endswith("weight"):
        tensor.fill_(1)
    else:
        is_matrix = tensor.dim() > 1 and "lora_" not in name
        reach = (3 / tensor[0].numel()) ** 0.5 if is_matrix else 0.02
        for part in tensor.view(-1).split(_POOL):
            part.copy_(_pool()[: len(part)] * reach)


def _pool() -> Tensor:
    if not _POOLS:
        _POOLS.append(torch.rand(_POOL, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    return _POOLS[0]


_POOLS: list[Tensor] = []


def _experts_in_every_second(layers: object) -> dict[str, Any]:
    indices = list(range(0, int(str(layers)), 2))
    return {
        "moe_layers_idx": indices, "num_experts": [4] * len(indices), "top_k_experts": 2, "capacity_factor": 1.5,
        "eval_capacity_factor": 2.0, "min_capacity": 0,
    }  # fmt: skip


def _pieces(folder: Path, bundled: str, count: int) -> None:
    """A bundled sentencepiece tokenizer with `count` pieces."""
    from sentencepiece import sentencepiece_model_pb2

    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(BUNDLED / bundled / name, folder)
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at import
    model.ParseFromString((BUNDLED / bundled / "tokenizer.model").read_bytes())
    for number in range(len(model.pieces), count):
        model.pieces.add(piece=f"▁piece{number}", score=-1000.0 - number)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())


def _gemma_tokenizer(folder: Path) -> None:
    _pieces(folder, "tiny_mini_gemini", 256000)


def _phi_tokenizer(folder: Path) -> None:
    """Phi-2's number of pieces, 50295: the bundled ones and pairs of letters. The end of text is in another place."""
    bundled = BUNDLED / "tiny_tinygpt_v" / "phi-2"
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(bundled / name, folder)
    values = json.loads((bundled / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = json.loads((bundled / "vocab.json").read_text(encoding="utf-8"))
    first = 1 + max(*vocabulary.values(), *(token["id"] for token in values["added_tokens"]))
    letters = [piece for piece in vocabulary if len(piece) == 1]
    pairs = [(a, b) for a in letters for b in letters if a + b not in vocabulary][: 50295 - first]
    more = {a + b: first + number for number, (a, b) in enumerate(pairs)}
    merges = (bundled / "merges.txt").read_text(encoding="utf-8") + "".join(f"{a} {b}\n" for a, b in pairs)
    values["model"]["vocab"] |= more
    values["model"]["merges"] += [[a, b] for a, b in pairs]
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocabulary | more), encoding="utf-8")
    (folder / "merges.txt").write_text(merges, encoding="utf-8")


def _stablelm_tokenizer(folder: Path) -> None:
    """Every byte, every two bytes and some of three: as many tokens as StableLM-2's, each of which can be formed."""
    singles = [bytes([n]) for n in range(256)]
    pairs = [a + b for a in singles for b in singles]
    tokens = [*singles, *pairs, *(pair + b"\x00" for pair in pairs)][:100256]
    lines = (b"%s %d" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))
    (folder / "arcade100k.tiktoken").write_bytes(b"\n".join(lines))
