"""Loading on a CPU: the same modules as transformers' loading makes, with no copy of what is in the right format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from models import loader
from models.config import family_module, load_config
from models.files.released import ReleasedFiles
from models.loader import check_parts, materialise
from models.tensors.casting import converted
from models.tensors.weights import Part
from tests.paths import GOLDENS

CASES = sorted((GOLDENS).glob("*/config.yaml"))
CPU = torch.device("cpu")


def parts_of(path: Path) -> dict[str, Part]:
    config = load_config(path)
    parts: dict[str, Part] = family_module(config.family, source=path).parts(config, ReleasedFiles(config))
    check_parts(parts)
    return parts


def facts(module: nn.Module) -> dict[str, object]:
    """What is to be the same beside the values."""
    config = getattr(module, "config", None)
    values = config.to_dict() if config is not None else {}
    generation = getattr(module, "generation_config", None)
    return {
        "training": [name for name, inner in module.named_modules() if inner.training],
        "learns": [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        "shared": len({parameter.data_ptr() for _, parameter in module.named_parameters(remove_duplicate=False)}),
        "config": {key: value for key, value in values.items() if key != "_name_or_path"},
        "generation": generation.to_dict() if generation is not None else None,
        "attention": getattr(config, "_attn_implementation", None),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_assigned_modules_are_those_that_transformers_loads(
    path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    for name, part in parts_of(path).items():
        if not issubclass(part.module_class, PreTrainedModel):
            continue
        compared += loader._can_assign(part, CPU, "none")
        ours = materialise(part, device=CPU, dtype=dtype)
        with monkeypatch.context() as patched:
            patched.setattr(loader, "_can_assign", lambda *_: False)
            theirs = materialise(part, device=CPU, dtype=dtype)
        assert facts(ours) == facts(theirs), name
        for kind in ("named_parameters", "named_buffers"):
            mine, other = (dict(getattr(module, kind)()) for module in (ours, theirs))
            assert mine.keys() == other.keys()
            for key, tensor in mine.items():
                assert tensor.dtype == other[key].dtype, key
                assert torch.equal(tensor, other[key]), key
    assert compared


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_tensors_in_the_right_format_are_not_copied(path: Path) -> None:
    """Every parameter is the very memory that its file is mapped to, except where another number format is wanted."""
    for part in parts_of(path).values():
        if part.released_shapes is not None:
            continue  # transformers stacks experts
        updated = part.lora.pairs if part.lora else {}
        module = materialise(part, device=CPU, dtype=torch.float32)
        of_files = {name: tensor for name, tensor in part.tensors.items() if name not in updated}
        for name, tensor in module.state_dict().items():
            if name in of_files and of_files[name].dtype == torch.float32:
                assert tensor.data_ptr() == of_files[name].data_ptr(), name


@pytest.mark.parametrize("wanted", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16])
def test_every_half_is_converted_as_torch_does(given: torch.dtype, wanted: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(given)
    many = every.repeat(9).reshape(9, 256, 256)  # more than are converted at a time
    for tensor in (many, many[:, :, :200], many[0, 0, 5], many[:0]):
        torch.testing.assert_close(converted(tensor, wanted), tensor.to(wanted), rtol=0, atol=0, equal_nan=True)
    assert converted(many, given) is many
