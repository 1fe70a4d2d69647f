"""LoRA adapter folders of the LLaVA line: merged as peft merges them, recognised, and refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.__main__ import main
from models.conversion.convert import convert
from models.errors import MiniVLMError
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel
from tests.paths import GOLDENS

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it

CASES = {
    "mgm-7b": (("q_proj", "v_proj", "up_proj"), "work_dirs/MGM/MGM-7B"),
    "moe-llava-phi2": (("q_proj", "dense"), "MoE-LLaVA-Phi2-2.7B-4e"),
}


def quiet(_: str) -> None:
    pass


def loaded(path: Path, **options: Any) -> VisionLanguageModel:
    return load_model(path, device="cpu", dtype="float32", report=quiet, **options)


def yaml_of(case: str, tmp_path: Path, **changed: Any) -> Path:
    """A case's YAML elsewhere, with absolute paths."""
    values = yaml.safe_load((GOLDENS / case / "config.yaml").read_text())
    values = {k: str(GOLDENS / case / v) if str(v).startswith("weights/") else v for k, v in values.items()} | changed
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return file


def base_folder(case: str) -> Path:
    return GOLDENS / case / "weights" / CASES[case][1]


def write_adapter(case: str, folder: Path, **options: Any) -> Tensor:
    """An adapter as peft writes it, beside it a projector's bias as LLaVA does; the logits that peft computes."""
    torch.manual_seed(0)
    model = loaded(GOLDENS / case / "config.yaml")
    settings = LoraConfig(r=4, lora_alpha=12, target_modules=list(CASES[case][0]), init_lora_weights=False, **options)
    wrapped = get_peft_model(model.language_model, settings)
    wrapped.peft_config["default"].base_model_name_or_path = str(base_folder(case))
    wrapped.save_pretrained(str(folder))
    with torch.inference_mode():
        return wrapped(input_ids=torch.arange(3, 12)[None]).logits


@pytest.fixture(scope="module", params=CASES)
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Tensor]:
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    return request.param, folder, write_adapter(request.param, folder)


def logits(model: VisionLanguageModel) -> Tensor:
    with torch.inference_mode():
        return model.language_model(input_ids=torch.arange(3, 12)[None]).logits


def test_an_adapter_is_merged_as_peft_merges_it(
    adapter: tuple[str, Path, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, folder, expected = adapter
    by_key = yaml_of(case, tmp_path, adapter=str(folder))
    model = loaded(by_key)
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-5)
    assert (logits(loaded(GOLDENS / case / "config.yaml")) - expected).abs().max() > 0.1
    assert main(["verify", str(by_key)]) == 0
    assert "a LoRA adapter of rank 4, to go on top of its base model (key adapter)" in capsys.readouterr().out
    convert(by_key, tmp_path / "out", dtype="float32", report=quiet)
    assert torch.equal(logits(loaded(tmp_path / "out")), logits(model))
    recognised = yaml_of(case, tmp_path, language_model=str(folder))
    assert torch.equal(logits(loaded(recognised)), logits(model))


def test_what_was_trained_in_full_wins_and_config_json_is_heeded(tmp_path: Path) -> None:
    """The scale of rank-stabilised LoRA as well, and an adapter without the base's absolute path near its base."""
    expected = write_adapter("mgm-7b", tmp_path / "adapter", use_rslora=True)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "/somewhere/else/MGM-7B"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter" / "config.json").write_text(json.dumps({"tokenizer_model_max_length": 777}))
    name = "base_model.model.model.mm_projector.2.bias"
    width = loaded(GOLDENS / "mgm-7b" / "config.yaml").language_model.config.hidden_size
    bias = torch.full((width,), 0.25)
    torch.save({name: bias}, tmp_path / "adapter" / "non_lora_trainables.bin")
    (tmp_path / "MGM-7B").symlink_to(base_folder("mgm-7b"))
    zoo = GOLDENS / "mgm-7b" / "weights" / "model_zoo" / "OpenAI"  # near the base itself, not near the link to it
    towers = {
        "vision_tower": str(zoo / "clip-vit-large-patch14-336"),
        "vision_tower_aux": str(zoo / "openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup"),
    }
    model = loaded(yaml_of("mgm-7b", tmp_path, language_model=str(tmp_path / "adapter"), context_tokens=None, **towers))
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-5)
    assert torch.equal(model.connector.get_parameter("projection.2.bias"), bias)
    assert model.info.context_tokens == 777


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def set_value(**values: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return edit


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no half": (
        lambda f: change(f, lambda t: t.pop(FIRST)),
        f"adapter_model.safetensors: of a LoRA pair .*{FIRST} is miss",
    ),
    "other rank": (lambda f: change(f, lambda t: t.update({FIRST: t[FIRST][:2].clone()})), f"{FIRST} is .*rank 4"),
    "other width": (lambda f: change(f, lambda t: t.update({FIRST: t[FIRST][:, :7].clone()})), f"{FIRST} is .*needs"),
    "no pair": (
        lambda f: change(f, lambda t: [t.pop(n) for n in list(t) if "layers.0.self_attn.q_proj" in n]),
        f"1 of .* LoRA pairs are missing .first: {FIRST}",
    ),
    "other base": (
        lambda f: change(f, lambda t: [t.update({n.replace("layers.0", "layers.99"): t.pop(n)}) for n in list(t)]),
        "which the base model does not have",
    ),
    "other targets": (set_value(target_modules=["q_proj"]), "is not among the target_modules"),
    "more than LoRA": (
        lambda f: change(f, lambda t: t.update({"x.lora_magnitude": torch.ones(1)})),
        "no LoRA matrices",
    ),
    "other rank in the config": (set_value(r=8), "has rank 4, but adapter_config.json says 8"),
    "DoRA": (set_value(use_dora=True), "use_dora is True"),
    "a switch of a later peft": (set_value(use_something_new=True), "use_something_new is True"),
    "QA-LoRA": (set_value(use_qalora=True), "use_qalora is True"),
    "a base model that is changed first": (set_value(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    "LoRA after some tokens only": (set_value(alora_invocation_tokens=[1, 2]), r"alora_invocation_tokens is \[1, 2\]"),
    "trained tokens": (set_value(trainable_token_indices=[1]), r"trainable_token_indices is \[1\]"),
    "biases": (set_value(bias="all"), "bias is 'all'"),
    "no alpha": (set_value(lora_alpha=None), "lora_alpha is None"),
    "alpha that is no number": (
        set_value(lora_alpha=float("nan")),
        "adapter_config.json can't be used.* lora_alpha is nan",
    ),
    "another method": (set_value(peft_type="IA3"), "peft_type is 'IA3'"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "holds no adapter_model.safetensors or"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "broken config": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json can't be used"),
    "a config of brackets": (
        lambda f: (f / "adapter_config.json").write_text("[" * 10**5),
        "config.json can't be used",
    ),
    "a config without keys": (lambda f: (f / "adapter_config.json").write_text("[1]"), "it holds no keys and values"),
    "NaN": (lambda f: change(f, lambda t: t.update({FIRST: t[FIRST] * float("nan")})), f"{FIRST} holds NaN"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_adapter_is_one_line(fault: str, adapter: tuple[str, Path, Tensor], tmp_path: Path) -> None:
    case, good, _ = adapter
    edit, message = FAULTS[fault]
    folder = Path(shutil.copytree(good, tmp_path / "adapter"))
    edit(folder)
    with pytest.raises(MiniVLMError, match=message) as raised:
        loaded(yaml_of(case, tmp_path, adapter=str(folder)))
    assert "\n" not in str(raised.value)


def test_a_base_that_is_nowhere_is_asked_for(adapter: tuple[str, Path, Tensor], tmp_path: Path) -> None:
    case, good, _ = adapter
    folder = Path(shutil.copytree(good, tmp_path / "adapter"))
    set_value(base_model_name_or_path="/data/somebody/vicuna")(folder)
    with pytest.raises(MiniVLMError, match=r"'/data/somebody/vicuna', which is not here. Set language_model to"):
        loaded(yaml_of(case, tmp_path, language_model=str(folder)))
