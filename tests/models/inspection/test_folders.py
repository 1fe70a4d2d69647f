"""Folders as people have them, right and wrong: what `verify` says of each, from headers alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.__main__ import main
from tests.models.inspection.changed_folders import (
    LLM,
    MGM,
    MINIGPT4,
    PHI,
    STABLELM,
    TINY,
    V2,
    Make,
    a_header_of_exabytes,
    a_stopped_download,
    a_tensor_less,
    adapter,
    adapter_in_its_place,
    adapter_of_another_base,
    adapter_whose_base_is_elsewhere,
    adapter_with_dora,
    adapter_without_weights,
    an_index_of_another_download,
    archive,
    as_it_is,
    as_one_pickle,
    cut,
    deepspeed_checkpoint,
    empty,
    file_of,
    gguf,
    gptq,
    in_the_hubs_cache,
    language_model_of,
    lfs_pointers,
    metas_own_format,
    of_pictures,
    one_level_too_high,
    the_caches_own_folder,
    unfinished,
    with_config,
    without_index,
    without_tokenizer,
    zero_bytes,
)
from tests.paths import GOLDENS

RIGHT = "The files belong together"
FOLDERS: dict[str, tuple[str, Make, list[str]]] = {
    # Right, as `RIGHT` among the lines says.
    "Mini-Gemini": (MGM, as_it_is, ["a whole Mini-Gemini, a language model of 4 layers, width 96", RIGHT]),
    "MoE-LLaVA": (STABLELM, as_it_is, ["a whole MoE-LLaVA with experts, a language model of 4 layers", RIGHT]),
    "MiniGPT-v2": (V2, as_it_is, ["projection and LoRA of rank 6", "the weights: config, epoch, optimizer", RIGHT]),
    "MiniGPT-4": (MINIGPT4, as_it_is, ["MiniGPT-4's projection (from width 48)", RIGHT]),
    "TinyGPT-V": (TINY, as_it_is, ["LoRA of rank 8, and a trained Q-Former", RIGHT]),
    "shards without an index": (MGM, without_index, ["shards without their index, which loading does without", RIGHT]),
    "pickled shards without an index": (STABLELM, without_index, ["shards without their index", RIGHT]),
    "one pickle of DataParallel": (V2, as_one_pickle, ["names begin with module. (DataParallel)", RIGHT]),
    "the hub's cache": (STABLELM, in_the_hubs_cache, ["1,892,400 bytes, 155 tensors in float32", RIGHT]),
    "a LoRA adapter": (MGM, adapter, ["a LoRA adapter of rank 2, to go on top of its base model", RIGHT]),
    "an adapter that names its base": (MGM, adapter_in_its_place, ["a LoRA adapter of rank 2", RIGHT]),
    # Wrong places.
    "one level too high": (MGM, one_level_too_high, ["MGM-7B holds no model weights: they are in ", "/MGM-7B/MGM-7B;"]),
    "the cache's own folder": (MGM, the_caches_own_folder, ["/MGM-7B/snapshots/0123abc; give that folder."]),
    "an empty folder": (V2, empty, ["it is empty; give the folder with model*.safetensors"]),
    "another folder": (V2, of_pictures, ["it has cat.png; give the folder with model*.safetensors"]),
    # Downloads that are not whole.
    "a shard less": (MGM, a_stopped_download, ["1 of 3 weight files are missing (first: model-00001-of-00003"]),
    "a file of a browser": (V2, unfinished, ["model.safetensors.crdownload is an unfinished download; finish it."]),
    "an archive": (V2, archive, ["llama2.tar.gz is an archive; unpack it."]),
    "pointers of git-lfs": (
        MGM,
        lfs_pointers,
        ["is a git-lfs pointer to a file of 4,977,190,000 bytes, not the file; run git lfs pull"],
    ),
    "pickled pointers": (STABLELM, lfs_pointers, ["pytorch_model-00001-of-00003.bin is a git-lfs pointer to a file"]),
    "zero bytes": (MGM, zero_bytes, ["model-00001-of-00003.safetensors is empty; delete it and download it again."]),
    "pickles of zero bytes": (
        STABLELM,
        zero_bytes,
        ["pytorch_model-00001-of-00003.bin is empty; delete it and download it again."],
    ),
    "a cut shard": (PHI, cut, ["has 415,604 bytes, but its header promises 415,704; delete it and download it again."]),
    "a cut pickle": (STABLELM, cut, ["(443,983 bytes) is no PyTorch checkpoint, or truncated or damaged; delete it"]),
    "a header of exabytes": (
        MGM,
        a_header_of_exabytes,
        ["(208 bytes) is no safetensors file; delete it and download it again."],
    ),
    "another download's index": (
        MGM,
        an_index_of_another_download,
        ["3 of 3 weight files are missing", "it has model-00001-of-00003.safetensors instead, which is of another"],
    ),
    "a tensor less": (MGM, a_tensor_less, ["1 parameters without weights (first: model.layers.0.self_attn.q_proj"]),
    "no tokenizer": (MGM, without_tokenizer, ["has no tokenizer (tokenizer.model, tokenizer.json, vocab.json)"]),
    "no tiktoken": (STABLELM, without_tokenizer, ["has no tokenizer", "download the whole folder."]),
    # What does not belong together.
    "a config.json of other depth": (MGM, with_config(num_hidden_layers=1), ["27 weights without parameters (first"]),
    "a config.json of other width": (PHI, with_config(hidden_size=64), ["is [80], but the projector needs [64]"]),
    "MoE-LLaVA for Mini-Gemini": (MGM, language_model_of(PHI), ["(vlm_uni_*), so it is not an MGM model (found "]),
    "Mini-Gemini for MoE-LLaVA": (PHI, language_model_of(MGM), ["is 'mgm'; MoE-LLaVA has phi, stablelm, qwen"]),
    "Phi for a Llama": (V2, language_model_of(TINY), ["this family needs a Llama or Vicuna model, found 'phi'."]),
    "another vision tower": (
        MINIGPT4,
        file_of(TINY, "eva_vit_g.pth", "eva_vit_g.pth"),
        ["an EVA vision tower of 3 blocks, width 48", "blocks.0.attn.q_bias is [48], but the vision tower needs [64]"],
    ),
    "MiniGPT-v2's file for MiniGPT-4": (
        MINIGPT4,
        file_of(V2, "minigptv2_checkpoint.pth", "pretrained_minigpt4.pth"),
        ["has LoRA tensors: it is MiniGPT-v2; use eval_configs/minigpt_v2.yaml."],
    ),
    "MiniGPT-4's file for MiniGPT-v2": (
        V2,
        file_of(MINIGPT4, "pretrained_minigpt4.pth", "minigptv2_checkpoint.pth"),
        ["has no LoRA tensors, so it is not MiniGPT-v2; for MiniGPT-4 use eval_configs/minigpt4_*.yaml."],
    ),
    "the vision tower as Q-Former": (
        MINIGPT4,
        file_of(MINIGPT4, "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"),
        ["has no ln_vision; is it blip2_pretrained_flant5xxl.pth?"],
    ),
    # Other programs' formats.
    "GGUF": (V2, gguf, ["llama-2-7b-chat.Q4_K_M.gguf is llama.cpp's format; get the model as it was released"]),
    "GPTQ": (V2, gptq, ["these weights are quantized already (gptq); give the model as it was released"]),
    "Meta's own": (V2, metas_own_format, ["is Meta's own format; get the same model in transformers'"]),
    "a DeepSpeed checkpoint": (MGM, deepspeed_checkpoint, ["it is a DeepSpeed checkpoint, to go on training from;"]),
    # Adapters.
    "an adapter without weights": (MGM, adapter_without_weights, ["it is a LoRA adapter without its adapter_model"]),
    "an adapter of another base": (MGM, adapter_of_another_base, ["which the base model does not have; is it of this"]),
    "an adapter with DoRA": (MGM, adapter_with_dora, ["use_dora is True; only False can be merged here."]),
    "an adapter whose base is elsewhere": (MGM, adapter_whose_base_is_elsewhere, ["Set language_model to the folder"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    golden, make, said = FOLDERS[name]
    monkeypatch.setattr(
        "models.tensors.tensor_reader.TensorReader.__init__", lambda *_, **__: pytest.fail("values are read")
    )
    case = Path(shutil.copytree(GOLDENS / golden, tmp_path / "case"))
    make(case, case / LLM[golden])
    status = main(["verify", str(case / "config.yaml")])
    output = capsys.readouterr()
    assert status == (0 if RIGHT in said else 2)
    lines = [line for line in output.err.splitlines() if not line.startswith("[transformers]")]
    assert [line[:7] for line in lines] == ([] if RIGHT in said else ["error: "])
    for text in said:
        assert text in output.out + output.err
