"""Every family keeps the contract of `models/family.py`: the type checker reads the first test, the second runs it."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from models.config import available_families, family_module
from models.errors import ConfigError
from models.families import mini_gemini, minigpt4, minigpt_v2, moe_llava, tinygpt_v
from models.family import ConfigT, Family, TokenizerT
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.tensors.weights import Part
from models.vision_language_model import VisionLanguageModel

families = pytest.mark.parametrize("name", available_families())


def module_of(family: Family[ConfigT, TokenizerT]) -> str:
    """Where a family is; mypy refuses the call for a module that is none."""
    assert isinstance(family, ModuleType)
    return family.__name__.rpartition(".")[2]


def test_the_type_checker_sees_every_family() -> None:
    checked = {
        module_of(mini_gemini),
        module_of(minigpt4),
        module_of(minigpt_v2),
        module_of(moe_llava),
        module_of(tinygpt_v),
    }
    assert checked <= set(available_families())  # a new family need not be listed; mypy checks those that are


def signature(function: Callable[..., object]) -> tuple[list[Any], Any]:
    """Types of the parameters, all of which can be given by position, and of the result."""
    parameters = inspect.signature(function).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    hints = typing.get_type_hints(function)
    return [hints[parameter.name] for parameter in parameters], hints["return"]


@families
def test_every_family_has_the_members_of_the_contract(name: str) -> None:
    family = family_module(name, source="here")
    config, tokenizer = family.Config, typing.get_type_hints(family.tokenizer)["return"]
    assert issubclass(config, FamilyConfig)
    assert dataclasses.is_dataclass(config)
    assert signature(family.parts) == ([config, ReleasedFiles], dict[str, Part])
    assert signature(family.tokenizer) == ([ReleasedFiles], tokenizer)
    modules = Mapping[str, nn.Module]
    assert signature(family.assemble) == ([config, ReleasedFiles, modules, tokenizer], VisionLanguageModel)


def test_an_unknown_family_is_explained_with_the_file_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"^here.yaml: unknown family 'gpt'; available: .*minigpt4"):
        family_module("gpt", source="here.yaml")
