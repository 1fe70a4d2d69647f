"""The YAML: strict keys, overrides, placeholders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from models.config import available_families, family_module, load_config, read_yaml
from models.conversation import Sampling
from models.errors import CheckpointMissing, ConfigError, MiniVLMError
from models.families import minigpt_v2
from models.fetching.checkpoints import find_local, needed_files, remarks_on, resolve
from models.formats.minigpt import GROUNDING_TASKS
from models.model_info import ModelInfo
from tests.paths import ROOT

V2 = "family: minigpt_v2\ncheckpoint: a.pth\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (V2 + "chekpoint: b.pth", r"unknown key 'chekpoint'; known keys: .*checkpoint"),
        ("family: minigpt_v2", r"missing key 'checkpoint'"),
        ("family: minigpt_v9\ncheckpoint: a", r"unknown family 'minigpt_v9'; available: .*minigpt_v2"),
        ("checkpoint: a", r"'family' is missing"),
        (V2 + "image_size: large", r"image_size is 'large'; it must be int"),
        (V2 + "image_size: true", r"image_size is True"),
        (V2 + "dtype: int4", r"dtype is 'int4'; choose one of auto"),
        (V2 + "sampling: {temprature: 1}", r"sampling: unknown key 'temprature'"),
        (V2 + "sampling: 3", r"sampling is 3; it must be a mapping"),
        ("family: minigpt4\ncheckpoint: a\nlanguage_model: b\nconversation: x", r"conversation is 'x'"),
        (V2 + "1: a\nfoo: b", r"unknown key '1', 'foo'"),
        (
            "model: {arch: minigpt_v2, ckpt: a, low_resource: maybe}",
            r"model.low_resource is 'maybe'; it must be true",
        ),
        ("model: {arch: minigpt_v2, ckpt: a}\ndatasets: [a]", r"datasets is \['a'\]; it must be a mapping"),
        ("model: {arch: minigpt_v2, ckpt: a}\ndatasets: {c: {vis_processor: {train: 5}}}", r"datasets.c.*: train is 5"),
        (
            "model: {arch: minigpt_v2, ckpt: a}\ndatasets: {c: {vis_processor: {train: {image_size: big}}}}",
            r"image_size is 'big'; it must be int",
        ),
        ("model: {arch: minigpt_v2, ckpt: a}\nfoo: 3", r"unknown key 'foo'"),
        ("a: [1", r"line 1: not valid YAML"),
        ("- a\n- b", r"expected keys and values"),
        ("model: {arch: minigpt_v2, ckpt: a, nonsense: 1}", r"unknown key 'model.nonsense'"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", available_families())
@pytest.mark.parametrize("key", ["dtype", "quantization"])
def test_no_family_takes_an_unknown_choice(tmp_path: Path, family: str, key: str) -> None:
    configs = (ROOT / "eval_configs").glob("*.yaml")
    config = next(path for path in configs if read_yaml(path).get("family") == family)
    with pytest.raises(ConfigError, match=f"{key} is 'int4'; choose one of"):
        load_config(config, [f"{key}=int4"])


@pytest.mark.parametrize("config", sorted((ROOT / "eval_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_one_setting_of_an_answer_leaves_the_others_as_they_are(config: Path) -> None:
    sampling = load_config(config).sampling
    assert load_config(config, ["sampling.seed=1"]).sampling == dataclasses.replace(sampling, seed=1)


def test_the_familys_sampling_stays_where_a_yaml_sets_one_key(tmp_path: Path) -> None:
    family = load_config(write(tmp_path, V2)).sampling
    config = load_config(write(tmp_path, V2 + "sampling: {top_p: 0.5}"), ["sampling.temperature=0.2"])
    assert family.temperature == 0.6
    assert config.sampling == dataclasses.replace(family, top_p=0.5, temperature=0.2)


def test_the_facts_for_the_page_are_those_of_the_yaml(tmp_path: Path) -> None:
    plain = load_config(write(tmp_path, V2)).model_info(tasks=GROUNDING_TASKS, trained_context=100)
    assert plain == ModelInfo(
        name="minigpt_v2",
        family="minigpt_v2",
        tasks=GROUNDING_TASKS,
        sampling=Sampling(temperature=0.6, max_new_tokens=500),
        context_tokens=100,
    )
    overrides = ["name=A", "description=B", "is_toy=true", "context_tokens=9", "quantization=8bit", "sampling.seed=3"]
    config = load_config(tmp_path / "model.yaml", overrides)
    assert config.model_info(tasks=(), trained_context=100, default_name="C", has_experts=True) == ModelInfo(
        name="A",
        family="minigpt_v2",
        tasks=(),
        description="B",
        is_toy=True,
        context_tokens=9,
        quantization="8bit",
        sampling=Sampling(temperature=0.6, max_new_tokens=500, seed=3),
        has_experts=True,
    )
    config = load_config(tmp_path / "model.yaml")
    assert config.model_info(tasks=(), trained_context=1, default_name="C").name == "C"


def test_a_missing_yaml_lists_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, V2)
    with pytest.raises(ConfigError, match=r"other.yaml not found. In .*: model.yaml"):
        load_config(tmp_path / "other.yaml")
    with pytest.raises(ConfigError, match=r"is a folder. In .*: model.yaml"):
        load_config(tmp_path)


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, V2)
    config = load_config(path, ["sampling.temperature=0", "image_size=224", "checkpoint=b.pth"])
    assert isinstance(config, minigpt_v2.Config)
    assert (config.sampling.temperature, config.image_size, config.checkpoint) == (0.0, 224, "b.pth")
    assert isinstance(config.sampling.temperature, float)  # written as 0
    for bad in ("image_size", "=3", "family.x=1", "image_size={"):
        with pytest.raises(ConfigError, match="--options"):
            load_config(path, [bad])


@pytest.mark.parametrize("name", ["checkpoint_path/tower/eva.pth", "your-team/eva.pth", "path_to_models/llama/eva.pth"])
def test_a_file_that_exists_is_no_placeholder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    for value in (name, str(tmp_path / name)):
        assert resolve(load_config(write(tmp_path, f"family: minigpt_v2\ncheckpoint: {value}")), "checkpoint").is_file()


@pytest.mark.parametrize("value", ["é" * 200, "x" * 300, "x/" * 3000, "~nobody of this machine/x"])
def test_what_can_be_no_path_is_one_line(value: str) -> None:
    config = load_config(ROOT / "eval_configs" / "tiny_minigpt_v2.yaml")
    with pytest.raises(ConfigError, match="can't be used") as caught:
        find_local(value, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["please set this value to the path of ckpt", "/path/to/checkpoint/", "", "xxx"])
def test_placeholders_are_recognised(tmp_path: Path, value: str) -> None:
    config = load_config(write(tmp_path, f"family: minigpt_v2\ncheckpoint: {value!r}"))
    with pytest.raises(ConfigError, match=r"placeholder .*Download"):
        resolve(config, "checkpoint")


def test_files_are_found_beside_the_yaml_and_by_base_name(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, V2 + "language_model: someone/llama"))
    (tmp_path / "llama").mkdir()
    assert needed_files(config)[0].path == tmp_path / "llama"
    (tmp_path / "someone" / "llama").mkdir(parents=True)
    assert resolve(config, "language_model") == tmp_path / "someone" / "llama"
    with pytest.raises(
        CheckpointMissing, match=r"2 files are missing.* checkpoint: a.pth .*Download minigptv2_checkpoint"
    ):
        resolve(config, "checkpoint")
    assert {file.key for file in needed_files(config)} == {"language_model", "vision_tower", "checkpoint"}


def test_a_path_of_ones_own_is_never_taken_for_another_of_that_name(tmp_path: Path) -> None:
    """Every training has a checkpoint_best.pth; a mistyped folder must not load another one's."""
    (tmp_path / "checkpoint_best.pth").touch()
    config = load_config(write(tmp_path, "family: minigpt_v2\ncheckpoint: output/stage3/checkpoint_best.pth"))
    assert {file.key: file.path for file in needed_files(config)}["checkpoint"] is None
    with pytest.raises(CheckpointMissing, match=f"did you mean {tmp_path}/checkpoint_best.pth\\?"):
        resolve(config, "checkpoint")
    assert remarks_on(config) == []


def test_what_is_found_by_its_last_part_is_said(tmp_path: Path) -> None:
    (tmp_path / "minigptv2_checkpoint.pth").touch()
    (tmp_path / "llama").mkdir()
    keys = "language_model: someone/llama\ncheckpoint: minigpt_v2/minigptv2_checkpoint.pth"
    config = load_config(write(tmp_path, f"family: minigpt_v2\n{keys}"))
    said = "is not here by its full name; {} is taken for it."
    assert sorted(remarks_on(config)) == [
        f"note: checkpoint: minigpt_v2/minigptv2_checkpoint.pth {said.format(tmp_path / 'minigptv2_checkpoint.pth')}",
        f"note: language_model: someone/llama {said.format(tmp_path / 'llama')}",
    ]


def test_a_hub_id_that_cannot_be_downloaded_is_one_line(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, V2 + "language_model: someone/nowhere"))
    with pytest.raises(MiniVLMError, match="someone/nowhere") as error:
        resolve(config, "language_model")
    assert "\n" not in str(error.value)


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for family in available_families():
        config_class = family_module(family, source="test").Config
        missing = [field.name for field in dataclasses.fields(config_class) if f"`{field.name}`" not in text]
        assert missing in ([], ["source"]), family
        assert f"`{family}`" in text


def test_towers_of_mini_gemini_may_be_on_the_hub(tmp_path: Path) -> None:
    tower = "openai/clip-vit-large-patch14-336"
    config = load_config(write(tmp_path, f"family: mini_gemini\nlanguage_model: a/b\nvision_tower: {tower}"))
    assert {file.key: file.state for file in needed_files(config)} == {
        "language_model": "on hub",
        "vision_tower": "on hub",
    }
    config = load_config(write(tmp_path, "family: mini_gemini\nlanguage_model: a/b\nvision_tower: towers/clip.pth"))
    with pytest.raises(CheckpointMissing, match=r"clip.pth not found .*Leave the key out to use the model's own"):
        resolve(config, "vision_tower")


def test_a_version_number_does_not_make_a_hub_id_a_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, V2 + "language_model: lmsys/vicuna-7b-v1.5"))
    states = {file.key: file.state for file in needed_files(config)}
    assert states["language_model"] == "on hub"
    assert states["checkpoint"] == "missing"
