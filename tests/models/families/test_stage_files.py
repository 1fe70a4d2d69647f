"""A stage file must bring all that its stage trained; what it lacks is named, and never taken from a base file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.config import family_module, load_config
from models.errors import CheckpointMismatch
from models.files.released import ReleasedFiles
from models.loader import check_parts
from models.tensors.origins import made_from
from models.tensors.weights import Tensors
from tests.paths import GOLDENS

Change = Callable[[Tensors], Mapping[str, Tensor]]
V2, TINY = "minigpt_v2", "tinygptv-stage3"
PEFT = "llama_model.base_model.model.model.layers."


class ChangedFiles(ReleasedFiles):
    """A case's files, those of one key with other tensors."""

    change: tuple[str, Change]

    def tensors(self, key: str) -> Tensors:
        """See `ReleasedFiles.tensors`."""
        tensors = super().tensors(key)
        return dict(self.change[1](tensors)) if key == self.change[0] else tensors


def check(case: str, key: str, change: Change, *overrides: str) -> None:
    config = load_config(GOLDENS / case / "config.yaml", overrides)
    files = ChangedFiles(config)
    files.change = (key, change)
    check_parts(family_module(config.family, source=case).parts(config, files))


def refusal(case: str, key: str, change: Change, *overrides: str) -> str:
    with pytest.raises(CheckpointMismatch) as error:
        check(case, key, change, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def without(*patterns: str) -> Change:
    return lambda tensors: {n: t for n, t in tensors.items() if not any(re.search(p, n) for p in patterns)}


def moved(pattern: str, replacement: str) -> Change:
    return lambda tensors: {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}


def resized(pattern: str, change: Callable[[Tensor], Tensor]) -> Change:
    def items(tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors.items():
            yield name, made_from(tensor, change(tensor))[0] if re.search(pattern, name) else tensor

    return lambda tensors: dict(items(tensors))


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        (V2, without(r"layers\.1\.self_attn\.v_proj\.lora"), "1 of 6 LoRA pairs .*layers.1.self_attn.v_proj.lora_A"),
        (V2, moved(r"layers\.0\.self_attn\.v_proj", "layers.0.self_attn.k_proj"), "0.self_attn.v_proj.*k_proj instead"),
        (V2, moved(r"v_proj", "k_proj"), "3 of 6 LoRA pairs are missing .*k_proj instead"),
        (
            V2,
            lambda t: t | {n.replace("q_proj", "o_proj"): v.clone() for n, v in t.items() if "q_proj" in n},
            "layers.0.self_attn.o_proj.weight updates what this family's LoRA does not",
        ),
        (V2, without(r"layers\.0\.self_attn\.q_proj\.lora_B"), "q_proj.lora_B.weight is missing"),
        (V2, resized(r"0\.self_attn\.v_proj\.lora_A", lambda t: t[:4]), r"v_proj.lora_A.weight is \[4, .*rank 6"),
        (
            V2,
            resized(r"1\.self_attn\.q_proj\.lora_B", lambda t: t[:, :4]),
            r"q_proj.lora_B.weight is \[64, 4\].*rank 6",
        ),
        (
            V2,
            resized(r"1\.self_attn\.q_proj\.lora_B", lambda t: t[:9]),
            r"q_proj.lora_B.weight is \[9, 6\].*needs \[64",
        ),
        (TINY, without("lora"), "has no LoRA tensors .*although lora_rank is 8"),
        (TINY, without(r"layers\.1\.self_attn\.dense\.lora"), "1 of 6 LoRA pairs .*layers.1.self_attn.dense.lora_A"),
        (TINY, without("norm"), "13 parameters without weights .*first: llama_model.*final_layernorm.weight"),
        (TINY, without(r"layers\.1\.input_layernorm"), "1 parameters .*layers.1.input_layernorm.weight"),
        (TINY, without("final_layernorm"), r"\(first: llama_model.base_model.model.model.final_layernorm.weight\)"),
        (TINY, without(r"llama_proj2\.bias"), r"does not fit the Q-Former: 1 .*\(first: llama_proj2.bias\)"),
        (TINY, resized(r"llama_proj\.weight", lambda t: t[:5]), r"llama_proj.weight is \[5, 48\]"),
        (TINY, resized(r"query_key_value\.lora_B", lambda t: t[:30]), r"query_key_value.lora_B.weight is \[30, 8\]"),
    ],
)
def test_what_a_stage_file_lacks_is_named(case: str, change: Change, message: str) -> None:
    config = load_config(GOLDENS / case / "config.yaml")
    found = refusal(case, "checkpoint", change)
    assert re.search(message, found), found
    assert ReleasedFiles(config).source("checkpoint") in found


def test_lora_that_peft_names_promise_is_missed_without_a_rank_too() -> None:
    found = refusal(TINY, "checkpoint", without("lora"), "lora_rank=null")
    assert "has no LoRA tensors" in found
    bare = moved(r"base_model\.model\.", "")
    check(TINY, "checkpoint", lambda tensors: bare(dict(without("lora")(tensors))), "lora_rank=null")


@pytest.mark.parametrize("values", [{"hidden_size": 96}, {"num_hidden_layers": 4}, {"num_hidden_layers": 2}])
def test_a_language_model_of_another_size_is_explained(values: dict[str, int], tmp_path: Path) -> None:
    case = Path(shutil.copytree(GOLDENS / TINY, tmp_path / "case"))
    file = case / "weights" / "phi-2" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    config = load_config(case / "config.yaml")
    parts = family_module(config.family, source=TINY).parts
    with pytest.raises(CheckpointMismatch, match=r"/(phi-2|TinyGPT-V_for_Stage3.pth)[:/ ]") as error:
        check_parts(parts(config, ReleasedFiles(config)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[0], r"pos_embed is \[17, 64\], but the vision tower needs \[1, 26, 64\]"),
        (lambda t: t[:, :-1], "pos_embed has 15 patches, which is not a square grid"),
        (lambda t: t[..., :60], r"pos_embed is \[1, 17, 60\], but .* needs \[1, 17, 64\]"),
        (lambda t: t[:, :1], "pos_embed has 0 patches"),
        (lambda t: t[:0], "pos_embed is"),
        (lambda t: t.squeeze().mean(), r"pos_embed is \[\]"),
    ],
)
def test_a_position_table_of_the_wrong_shape_is_refused(change: Callable[[Tensor], Tensor], message: str) -> None:
    """Where its grid is resized."""
    found = refusal(TINY, "vision_tower", resized("pos_embed", change), "image_size=70")
    assert re.search(r"eva_vit_g.pth: " + message, found), found


def test_the_file_of_a_part_made_of_several_is_the_right_one() -> None:
    found = refusal(TINY, "qformer", without("layer.0.attention.self.key.bias"))
    assert re.search(
        r"blip2_pretrained_flant5xxl.pth: .*\(first: Qformer.bert.encoder.layer.0.attention.self.key", found
    )
    found = refusal(TINY, "qformer", resized(r"ln_vision\.bias", lambda t: t[:3]))
    assert re.search(r"blip2_pretrained_flant5xxl.pth: ln_vision.bias is \[3\], but the vision tower needs", found)


def trained(prefix: str, key: str, case: str, *, lost: str = "^$") -> Change:
    """A stage file that holds a frozen module as well, from the file of this key."""
    config = load_config(GOLDENS / case / "config.yaml")
    own = {prefix + n: t for n, t in ReleasedFiles(config).tensors(key).items() if not re.search(lost, n)}
    return lambda tensors: tensors | {n: t for n, t in own.items() if re.search(r"^(visual_encoder|Qformer)\.", n)}


@pytest.mark.parametrize(
    ("prefix", "key", "lost"),
    [("visual_encoder.", "vision_tower", r"blocks\.1\.mlp\.fc1\.bias"), ("", "qformer", r"layer\.1\..*query\.bias")],
)
def test_a_module_trained_along_is_there_whole_or_not_at_all(prefix: str, key: str, lost: str) -> None:
    check(TINY, "checkpoint", trained(prefix, key, TINY))
    found = refusal(TINY, "checkpoint", trained(prefix, key, TINY, lost=lost))
    assert re.search(r"tensors of the (vision tower|Q-Former), but 1 are missing \(first: .*\.bias\)", found), found


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("mgm-7b", "Vision tower: its copy in the model's own files is used, not the weights in .*patch14-336"),
        ("mgm-7b", "High-resolution tower: .*open_clip_pytorch_model.bin is used, not a copy in the model's own files"),
        ("moe-llava-phi2", "Vision tower: .*clip-vit-large-patch14-336 is used, not the copy in the model's own files"),
    ],
)
def test_which_of_two_towers_is_used_is_said(case: str, line: str) -> None:
    config = load_config(GOLDENS / case / "config.yaml")
    parts = family_module(config.family, source=case).parts(config, ReleasedFiles(config))
    assert any(re.match(line, part.note) for part in parts.values()), [part.note for part in parts.values()]
    assert torch.float32 in {t.dtype for part in parts.values() for t in part.tensors.values()}  # a folder's own
