"""The eval configs of the original repositories."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from models.config import load_config
from models.families import minigpt4, minigpt_v2, tinygpt_v
from models.fetching.checkpoints import needed_files
from tests.paths import GOLDENS, ROOT


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    return path


ORIGINAL_V2 = """
model:
  arch: minigpt_v2
  model_type: pretrain
  max_txt_len: 500
  end_sym: "</s>"
  low_resource: True
  prompt_template: '[INST] {} [/INST]'
  ckpt: "/data/minigptv2.pth"
  lora_r: 64
  lora_alpha: 16

datasets:
  cc_sbu_align:
    vis_processor:
      train:
        name: "blip2_image_eval"
        image_size: 448
    text_processor:
      train:
        name: "blip_caption"

run:
  task: image_text_pretrain
"""
ORIGINAL_MINIGPT4 = """
model:
  arch: minigpt4
  model_type: {model_type}
  max_txt_len: 160
  end_sym: "###"
  low_resource: False
  prompt_template: '###Human: {{}} ###Assistant: '
  ckpt: '/data/prerained_minigpt4_7b.pth'

datasets:
  cc_sbu_align:
    vis_processor:
      train:
        name: "blip2_image_eval"
        image_size: 224
run:
  task: image_text_pretrain
"""


@pytest.mark.parametrize(
    ("arch", "conversation", "image_size"), [("minigpt4", "vicuna_v0", 224), ("minigpt_v2", "minigpt_v2", 448)]
)
def test_original_tinygpt_v_config(tmp_path: Path, arch: str, conversation: str, image_size: int) -> None:
    """Its arch names are MiniGPT-4's; the key that only its configs have tells."""
    original = ORIGINAL_V2.replace("arch: minigpt_v2", f'arch: {arch}\n  bos_token_id: "###"').replace(
        "448", str(image_size)
    )
    config = load_config(write(tmp_path, original))
    assert isinstance(config, tinygpt_v.Config)
    assert (config.conversation, config.image_size) == (conversation, image_size)
    assert (config.language_model, config.lora_rank) == ("microsoft/phi-2", 64)
    ours = load_config(ROOT / "eval_configs" / f"tinygptv_stage{3 if arch == 'minigpt4' else 4}.yaml")
    assert config.sampling == ours.sampling


def test_original_tinygpt_v_config_is_told_by_its_checkpoint(tmp_path: Path) -> None:
    stage = GOLDENS / "tinygptv-stage3" / "weights" / "TinyGPT-V_for_Stage3.pth"
    path = write(tmp_path, ORIGINAL_MINIGPT4.format(model_type="pretrain_vicuna0"))
    assert load_config(path, [f"model.ckpt={stage}"]).family == "tinygpt_v"
    assert load_config(path).family == "minigpt4"


def test_original_minigpt_v2_config(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ORIGINAL_V2), ["model.llama_model=/data/llama"])
    assert isinstance(config, minigpt_v2.Config)
    assert (config.checkpoint, config.language_model) == ("/data/minigptv2.pth", "/data/llama")
    assert (config.image_size, config.lora_rank, config.lora_alpha, config.quantization) == (448, 64, 16.0, "8bit")


def test_our_keys_work_over_an_original_config(tmp_path: Path) -> None:
    original = ORIGINAL_V2.replace("arch: minigpt_v2", 'arch: minigpt_v2\n  bos_token_id: "###"')
    for text in (ORIGINAL_V2, original):
        path = write(tmp_path, text + "evaluation_datasets: {refcoco: {batch_size: 10}}\n")
        plain = load_config(path)
        overrides = ["quantization=4bit", "sampling.top_p=0.5", "device=cuda:0", "dtype=bfloat16", "image_size=224"]
        config = load_config(path, overrides)
        assert (config.quantization, config.device, config.dtype) == ("4bit", "cuda:0", "bfloat16")
        assert isinstance(config, minigpt_v2.Config | tinygpt_v.Config)
        assert config.image_size == 224
        assert config.sampling == dataclasses.replace(plain.sampling, top_p=0.5)


@pytest.mark.parametrize(
    ("model_type", "conversation", "has_qformer"),
    [("pretrain_vicuna0", "vicuna_v0", True), ("pretrain_llama2", "llama_2", False)],
)
def test_original_minigpt4_config(tmp_path: Path, model_type: str, conversation: str, has_qformer: bool) -> None:
    config = load_config(write(tmp_path, ORIGINAL_MINIGPT4.format(model_type=model_type)))
    assert isinstance(config, minigpt4.Config)
    assert (config.conversation, config.has_qformer, config.image_size) == (conversation, has_qformer, 224)
    assert config.quantization == "none"
    assert ("qformer" in {file.key for file in needed_files(config)}) == has_qformer
