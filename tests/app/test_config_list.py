"""What `--list` prints, and what a name of a configuration means."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.arguments import DEFAULT_CONFIG
from app.config_list import config_names, describe_configs, find_config
from models.command_line import CONFIG_DIR
from models.config import load_config
from models.errors import ConfigError


def listed(*words: str) -> list[str]:
    """The names that these words choose."""
    return [Path(block.split()[0]).stem for block in describe_configs(words).split("\n\n")]


def test_list_survives_a_broken_config(tmp_path: Path) -> None:
    shutil.copy(DEFAULT_CONFIG, tmp_path / "copy.yaml")
    (tmp_path / "broken.yaml").write_text("family: [", encoding="utf-8")
    text = describe_configs(folder=tmp_path)
    assert "broken.yaml\n  error: " in text
    assert "copy.yaml  [" in text
    assert describe_configs(folder=tmp_path / "nowhere").startswith("No configurations in ")


def test_the_list_is_filtered_by_state_family_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.config_list._memory", lambda _: "memory")
    assert set(listed()) == set(config_names())
    assert set(listed("ready")) == {name for name in config_names() if name.startswith("tiny_")}
    assert {"minigpt_v2", "tiny_minigpt_v2"} <= set(listed("minigpt_v2"))
    assert listed("MiniGPT_v2", "ready") == ["tiny_minigpt_v2"]
    assert listed("tiny_minigpt_v2.yaml") == ["tiny_minigpt_v2"]
    families = {load_config(CONFIG_DIR / f"{name}.yaml").family for name in listed("mini_gemini")}
    assert families == {"mini_gemini"}


@pytest.mark.parametrize(
    ("words", "meant"), [(["redy"], "ready"), (["minigptv2"], "minigpt_v2"), (["ready", "mini_gemni"], "mini_gemini")]
)
def test_a_mistyped_word_is_recognised(words: list[str], meant: str) -> None:
    with pytest.raises(ConfigError, match=f"no configuration is that. Did you mean {meant}"):
        describe_configs(words)


def test_sizes_are_those_of_the_files_or_of_the_released_ones() -> None:
    tiny, released = describe_configs(["tiny_minigpt_v2"]), describe_configs(["minigpt_v2", "missing"])
    assert "Memory for the weights: float32 " in tiny
    assert "4bit " in tiny
    assert "  Files: " in tiny
    assert "eva_vit_g.pth  (1.9 GiB)" in released
    assert "and those of unknown size" in released
    assert "Memory" not in released


def test_a_configuration_is_found_by_its_name_or_file(tmp_path: Path) -> None:
    assert find_config("tiny_minigpt_v2") == DEFAULT_CONFIG
    mine = shutil.copy(DEFAULT_CONFIG, tmp_path / "mine.yaml")
    assert find_config(str(mine)) == mine
    with pytest.raises(ConfigError, match=r"no configuration 'minigptv2'\. Did you mean minigpt_v2\?"):
        find_config("minigptv2")


@pytest.mark.parametrize(
    "name", ["minigpt_v2", "minigptv2.yaml", "eval_configs/minigpt-v2.yaml", "elsewhere/minigpt_v2.yml"]
)
def test_a_mistyped_path_is_recognised(name: str) -> None:
    with pytest.raises(ConfigError, match=r"not found\. Did you mean eval_configs/minigpt_v2\.yaml\? Give a YAML"):
        load_config(name)
