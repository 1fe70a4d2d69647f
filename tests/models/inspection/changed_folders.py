"""Folders as people have them: copies of recorded cases, changed in one way each."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from models.tensors.weights import read_tensors
from tests.paths import GOLDENS

MGM, STABLELM, PHI = "mgm-7b", "moe-llava-stablelm", "moe-llava-phi2"
V2, MINIGPT4, TINY = "minigpt_v2", "minigpt4-vicuna0", "tinygptv-stage4"
LLM = {
    MGM: "weights/work_dirs/MGM/MGM-7B",
    STABLELM: "weights/MoE-LLaVA-StableLM-1.6B-4e",
    PHI: "weights/MoE-LLaVA-Phi2-2.7B-4e",
    V2: "weights/llama2-chat",
    MINIGPT4: "weights/vicuna",
    TINY: "weights/phi-2",
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 4977190000\n"
Make = Callable[[Path, Path], object]
"""Changes a case's copy, given its folder and that of its language model."""


def as_it_is(case: Path, llm: Path) -> None:
    del case, llm


def shards(llm: Path) -> list[Path]:
    return sorted([*llm.glob("model-*.safetensors"), *llm.glob("pytorch_model-*.bin")])


def index(llm: Path) -> Path:
    return next(llm.glob("*.index.json"))


def without_index(case: Path, llm: Path) -> None:
    index(llm).unlink()


def as_one_pickle(case: Path, llm: Path) -> None:
    """As DataParallel saves it, in one file."""
    tensors = {f"module.{name}": tensor.clone() for name, tensor in read_tensors(llm).items()}
    for file in (*shards(llm), index(llm)):
        file.unlink()
    torch.save({"state_dict": tensors}, llm / "pytorch_model.bin")


def in_the_hubs_cache(case: Path, llm: Path) -> None:
    """Links to blobs without names, as the hub's client keeps them."""
    blobs = case / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(llm.iterdir())):
        file.replace(blobs / str(number))
        file.symlink_to(blobs / str(number))


def one_level_too_high(case: Path, llm: Path) -> None:
    """As an archive is unpacked."""
    moved = llm.rename(llm.with_name("moved"))
    llm.mkdir()
    moved.rename(llm / llm.name)


def the_caches_own_folder(case: Path, llm: Path) -> None:
    moved = llm.rename(llm.with_name("moved"))
    (llm / "snapshots").mkdir(parents=True)
    moved.rename(llm / "snapshots" / "0123abc")


def empty(case: Path, llm: Path) -> None:
    shutil.rmtree(llm)
    llm.mkdir()


def of_pictures(case: Path, llm: Path) -> None:
    empty(case, llm)
    (llm / "cat.png").touch()


def unfinished(case: Path, llm: Path) -> None:
    empty(case, llm)
    (llm / "model.safetensors.crdownload").write_bytes(bytes(100))


def archive(case: Path, llm: Path) -> None:
    empty(case, llm)
    (llm / "llama2.tar.gz").write_bytes(bytes(100))


def a_stopped_download(case: Path, llm: Path) -> None:
    first = shards(llm)[0]
    first.rename(first.with_name(f"{first.name}.part"))


def lfs_pointers(case: Path, llm: Path) -> None:
    for file in shards(llm):
        file.write_text(POINTER)


def zero_bytes(case: Path, llm: Path) -> None:
    for file in shards(llm):
        file.write_bytes(b"")


def cut(case: Path, llm: Path) -> None:
    file = shards(llm)[-1]
    file.write_bytes(file.read_bytes()[:-100])


def a_header_of_exabytes(case: Path, llm: Path) -> None:
    shards(llm)[0].write_bytes(struct.pack("<Q", 2**62) + b"{}" * 100)


def an_index_of_another_download(case: Path, llm: Path) -> None:
    index(llm).write_text(index(llm).read_text().replace("-of-00003", "-of-00004"))


def a_tensor_less(case: Path, llm: Path) -> None:
    file = next(file for file in shards(llm) if any("layers.0.self_attn" in name for name in load_file(file)))
    tensors = {n: t.clone() for n, t in load_file(file).items() if n != "model.layers.0.self_attn.q_proj.weight"}
    save_file(tensors, file)


def with_config(**changes: object) -> Make:
    def change(case: Path, llm: Path) -> None:
        file = llm / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def language_model_of(golden: str) -> Make:
    def change(case: Path, llm: Path) -> None:
        shutil.rmtree(llm)
        shutil.copytree(GOLDENS / golden / LLM[golden], llm)

    return change


def file_of(golden: str, name: str, target: str) -> Make:
    def change(case: Path, llm: Path) -> None:
        shutil.copyfile(GOLDENS / golden / "weights" / name, case / "weights" / target)

    return change


def gguf(case: Path, llm: Path) -> None:
    for file in (*shards(llm), index(llm)):
        file.unlink()
    (llm / "llama-2-7b-chat.Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(100))


def gptq(case: Path, llm: Path) -> None:
    """Quantized by another program: each weight is three tensors of whole numbers."""
    tensors = {}
    for name, tensor in read_tensors(llm).items():
        if "proj" not in name:
            tensors[name] = tensor.clone()
            continue
        stem = name.removesuffix("weight")
        tensors |= {f"{stem}{kind}": torch.zeros(4, 4, dtype=torch.int32) for kind in ("qweight", "qzeros", "g_idx")}
        tensors[f"{stem}scales"] = torch.zeros(4, 4)
    for file in (*shards(llm), index(llm)):
        file.unlink()
    save_file(tensors, llm / "model.safetensors")
    with_config(quantization_config={"quant_method": "gptq", "bits": 4})(case, llm)


def metas_own_format(case: Path, llm: Path) -> None:
    empty(case, llm)
    (llm / "params.json").write_text('{"dim": 4096, "n_layers": 32}')
    torch.save({"tok_embeddings.weight": torch.zeros(4, 4)}, llm / "consolidated.00.pth")


def deepspeed_checkpoint(case: Path, llm: Path) -> None:
    for file in (*shards(llm), index(llm)):
        file.unlink()
    (llm / "latest").write_text("global_step100")
    (llm / "trainer_state.json").write_text('{"global_step": 100}')
    (llm / "global_step100").mkdir()
    torch.save({"module": {}}, llm / "global_step100" / "mp_rank_00_model_states.pt")


def without_tokenizer(case: Path, llm: Path) -> None:
    for file in (*llm.glob("tokenizer*"), *llm.glob("vocab.json"), *llm.glob("*.tiktoken")):
        file.unlink()


def adapter_values(case: Path, **changes: object) -> None:
    values = {"peft_type": "LORA", "base_model_name_or_path": str(case / LLM[MGM]), "r": 2, "lora_alpha": 4}
    (case / "adapter" / "adapter_config.json").write_text(json.dumps(values | {"target_modules": ["q_proj"]} | changes))


def adapter(case: Path, llm: Path) -> None:
    """A LoRA folder beside its base, named by the key."""
    (case / "adapter").mkdir()
    adapter_values(case)
    pairs: dict[str, torch.Tensor] = {}
    for name, tensor in read_tensors(llm).items():
        if name.startswith("model.layers.") and name.endswith("q_proj.weight"):
            stem, (rows, columns) = f"base_model.model.{name.removesuffix('weight')}", tensor.shape
            pairs |= {f"{stem}lora_A.weight": torch.ones(2, columns), f"{stem}lora_B.weight": torch.ones(rows, 2)}
    save_file(pairs, case / "adapter" / "adapter_model.safetensors")
    config = case / "config.yaml"
    config.write_text(config.read_text() + "adapter: adapter\n")


def adapter_in_its_place(case: Path, llm: Path) -> None:
    adapter(case, llm)
    values = yaml.safe_load((case / "config.yaml").read_text())
    del values["adapter"]
    (case / "config.yaml").write_text(yaml.safe_dump(values | {"language_model": "adapter"}))


def adapter_without_weights(case: Path, llm: Path) -> None:
    adapter(case, llm)
    (case / "adapter" / "adapter_model.safetensors").unlink()


def adapter_of_another_base(case: Path, llm: Path) -> None:
    adapter(case, llm)
    file = case / "adapter" / "adapter_model.safetensors"
    save_file({name.replace("layers.0", "layers.77"): t.clone() for name, t in load_file(file).items()}, file)


def adapter_with_dora(case: Path, llm: Path) -> None:
    adapter(case, llm)
    adapter_values(case, use_dora=True)


def adapter_whose_base_is_elsewhere(case: Path, llm: Path) -> None:
    adapter_in_its_place(case, llm)
    adapter_values(case, base_model_name_or_path="/elsewhere/vicuna-7b")
