"""A released model folder with the trained tensors put in: the way back through all of a family's renaming.

Nothing here knows a family's names. Loading maps released tensors to ours without copying, so the memory a released
tensor lies in says which of ours it became: one, or several rows of it each (a fused q, k, v).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.config import family_module
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.tensors.weights import Tensors

# Experts that transformers stacks in one parameter -> one tensor each, as in released files and in a `Part`.
_STACKED = re.compile(r"^(.*\.mlp\.)experts\.(gate_up_proj|up_proj|down_proj)(_bias)?$")
_MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


class KeptFiles(ReleasedFiles):
    """Released files of which every tensor is read once, so that all see the same memory."""

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__(config)
        self._kept: dict[str, Tensors] = {}

    def tensors(self, key: str) -> Tensors:
        """See `ReleasedFiles.tensors`."""
        if key not in self._kept:
            self._kept[key] = super().tensors(key)
        return dict(self._kept[key])


def retrained_tensors(config: FamilyConfig, state: Mapping[str, Tensor]) -> Tensors:
    """Every tensor under the key `language_model` by released name, trained values in place of the old.

    `state` holds trained values by the names of `VisionLanguageModel`; those of the connector are taken where the
    folder has one. A tied output head is left out: it is the embedding.
    """
    files = KeptFiles(config)
    parts = family_module(config.family, source=config.source).parts(config, files)
    placed: list[tuple[int, Tensor, Tensor]] = []  # address, value as loaded, value after training
    for key in ("language_model", "connector"):
        trained = unstack(
            {name.removeprefix(f"{key}."): value for name, value in state.items() if name.startswith(f"{key}.")},
            parts[key].tensors,
        )
        placed += [
            (tensor.data_ptr(), tensor, trained.get(name, tensor)) for name, tensor in parts[key].tensors.items()
        ]
    is_tied = bool(getattr(parts["language_model"].config, "tie_word_embeddings", False))
    result: Tensors = {}
    for name, released in files.tensors("language_model").items():
        if is_tied and name == "lm_head.weight":
            continue
        first, last = released.data_ptr(), released.data_ptr() + released.nbytes
        inside = sorted((at, value) for at, _, value in placed if first <= at < last) if released.nbytes else []
        result[name] = torch.cat([value.to(released.dtype) for _, value in inside]) if inside else released
    return result


def unstack(state: Mapping[str, Tensor], loaded: Mapping[str, Any]) -> Tensors:
    """Stacked experts [E, …] as one tensor each, called as in `loaded` (a `Part`'s tensors: ours, or Mixtral's w1…)."""
    separate: Tensors = {}
    is_mixtral = any(".block_sparse_moe." in name for name in loaded)
    for name, tensor in state.items():
        match = _STACKED.match(name)
        if match is None:
            separate[name.replace(".mlp.", ".block_sparse_moe.") if is_mixtral else name] = tensor
            continue
        prefix, kind, bias = match.groups()
        halves = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        for number, expert in enumerate(tensor):
            for half, part in zip(halves, expert.chunk(len(halves)), strict=True):
                if is_mixtral:
                    block = prefix.replace(".mlp.", ".block_sparse_moe.")
                    separate[f"{block}experts.{number}.{_MIXTRAL[half]}.weight"] = part
                else:
                    separate[f"{prefix}experts.{number}.{half}.{'bias' if bias else 'weight'}"] = part
    return separate
