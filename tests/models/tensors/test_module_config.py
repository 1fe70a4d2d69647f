"""Keys of a YAML that go into a transformers configuration."""

from __future__ import annotations

import pytest
from transformers import CLIPVisionConfig

from models.errors import ConfigError
from models.tensors.module_config import module_config


def test_overrides_win_and_a_mistyped_one_is_named_with_those_there_are() -> None:
    config = module_config(CLIPVisionConfig, {"hidden_size": 12, "patch_size": 4}, {"hidden_size": 24}, where="a.yaml")
    assert (config.hidden_size, config.patch_size) == (24, 4)
    with pytest.raises(ConfigError) as caught:
        module_config(CLIPVisionConfig, {}, {"hiden_size": 16}, where="a.yaml: vision_config")
    line = str(caught.value)
    assert line.startswith("a.yaml: vision_config: unknown key 'hiden_size'; known keys: ")
    assert "hidden_size" in line
    assert "return_dict" not in line  # what every configuration of the library has


def test_no_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: num_hidden_layers is 0; it must be at least 1"):
        module_config(CLIPVisionConfig, {}, {"num_hidden_layers": 0}, where="a.yaml")
