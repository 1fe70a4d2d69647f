"""Released files -> named tensors for our modules: lazy reading, and renaming by rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import CheckpointCorrupt, CheckpointMismatch, NotEnoughMemory
from models.tensors.folders import weight_files
from models.tensors.foreign import refuse_foreign, refuse_special
from models.tensors.origins import Origin, origin_of, recorded
from models.tensors.state_dicts import read_state_dict

Tensors = dict[str, Tensor]
HEAD = "lm_head.weight"  # of every language model here; where it is the embedding, no tensor has this name
_Named = TypeVar("_Named")


@dataclass(frozen=True)
class Rename:
    """One step from a released name to ours: a regex and its replacement; applied in order, all that match."""

    pattern: str
    replacement: str

    @property
    def inverse(self) -> Rename:
        """The step back. Groups hold no groups, and each is in the replacement once."""
        groups = re.findall(r"\([^()]*\)", self.pattern)
        start, end = "^" * self.pattern.startswith("^"), "$" * self.pattern.endswith("$")
        numbers = iter(range(1, len(groups) + 1))
        back = re.sub(r"\([^()]*\)", lambda _: rf"\{next(numbers)}", self.pattern.removeprefix("^").removesuffix("$"))
        pieces = re.split(r"\\(\d)", self.replacement)  # text, group number, text, ...
        forth = (groups[int(piece) - 1] if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces))
        return Rename(f"{start}{''.join(forth)}{end}", back.replace("\\.", "."))


@dataclass(frozen=True)
class Drop:
    """Released tensors that are not used, with the reason."""

    pattern: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank updates of some linear weights: name of the weight -> (A [rank, in], B [out, rank])."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    alpha: float

    @property
    def rank(self) -> int:
        """The inner width that most of the tensors have."""
        ranks = [size for a, b in self.pairs.values() for size in (*a.shape[:1], *b.shape[1:2])]
        return mode(ranks) if ranks else 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One module and the released tensors it is loaded from, before anything is allocated.

    `config` is the transformers configuration for a transformers class, or the keyword arguments of a plain module.
    `released_shapes` turns the module's names and shapes into the released ones, where transformers itself converts
    while it loads. `is_quantizable`: 8-bit and 4-bit loading apply to this part. `hint` completes a wrong-size message.
    `released` says where a parameter's tensor should be, for a message that it is not there. `note` is said at loading.
    `is_checked`: weights known to be finite. `is_quantized`: a folder of packed ones, whose `tensors` have no values.
    """

    name: str
    source: str
    module_class: type[nn.Module]
    config: Any
    tensors: Tensors
    lora: Lora | None = None
    is_quantizable: bool = False
    hint: str = ""
    released_shapes: Callable[[dict[str, torch.Size]], dict[str, torch.Size]] | None = None
    released: Callable[[str], Origin] | None = None
    note: str = ""
    is_checked: bool = False
    is_quantized: bool = False

    def origin_of_name(self, name: str) -> Origin:
        """Where the tensor of this name should be, as a file and a released name."""
        return Origin(self.source, name) if self.released is None else self.released(name)


def read_tensors(path: Path) -> Tensors:
    """All tensors of a `.pth`/`.bin`/`.safetensors` file or of a sharded folder, memory-mapped, by released name.

    `.pth` files may wrap the state dict ({"model": …} of LAVIS and MiniGPT runners, {"state_dict": …}, …). Pickles are
    opened with `weights_only`: code inside is refused. Raises CheckpointMissing, CheckpointCorrupt or NotEnoughMemory.
    """
    if path.is_dir():
        return _read_all(weight_files(path))
    refuse_special(path)
    if path.suffix == ".safetensors":
        try:
            return recorded(load_file(path), str(path))
        except MemoryError as error:  # as under ulimit -v: what is mapped counts there
            raise NotEnoughMemory(f"{path} can't be read: the system gives the program no room for it.") from error
        except (SafetensorError, OSError) as error:
            refuse_foreign(path, reads="safetensors")
            raise CheckpointCorrupt(f"{path} can't be read ({error}); delete it and download it again.") from error
    return recorded(read_state_dict(path), str(path))


def _read_all(shards: Sequence[Path]) -> Tensors:
    tensors: Tensors = {}
    for shard in shards:
        read = read_tensors(shard)
        if twice := tensors.keys() & read.keys():
            first = origin_of(tensors[min(twice)], Origin(str(shard.parent), min(twice)))
            raise CheckpointCorrupt(
                f"{shard} holds {first.name}, as {first.file} does; delete and download both again."
            )
        tensors |= read
    return tensors


def rename(tensors: Mapping[str, _Named], rules: Sequence[Rename | Drop]) -> dict[str, _Named]:
    """Apply rules to every name; tensors that a `Drop` matches are left out."""
    renamed: dict[str, _Named] = {}
    for released_name, tensor in tensors.items():
        name: str | None = released_name
        for rule in rules:
            if isinstance(rule, Drop):
                if re.search(rule.pattern, released_name):
                    name = None
                    break
            elif name is not None:
                name = re.sub(rule.pattern, rule.replacement, name)
        if name is not None:
            renamed[name] = tensor
    return renamed


def renamed_from(name: str, rules: Sequence[Rename | Drop]) -> str:
    """The name that `rename` turned into this one."""
    for rule in reversed(rules):
        if isinstance(rule, Rename):
            name = re.sub(rule.inverse.pattern, rule.inverse.replacement, name)
    return name


def first_layers(tensors: Mapping[str, Tensor], prefix: str, count: int) -> Tensors:
    """The tensors without those of the layers `…prefix.N.…` from number `count` on, whose output is not used."""
    numbered = re.compile(rf"(?:^|\.){re.escape(prefix)}(\d+)\.")
    return {
        name: tensor
        for name, tensor in tensors.items()
        if (match := numbered.search(name)) is None or int(match[1]) < count
    }


def first_names(tensors: Mapping[str, Tensor]) -> str:
    """What there is in place of what should be, as a part of a message."""
    return f"found {', '.join(sorted(tensors)[:3])}" if tensors else "it holds no tensors"


def take_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """Remove and return the tensors whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def replaced(base: Tensors, trained: Tensors, *, what: str, prefix: str = "") -> Tensors:
    """`base` with what a stage file holds in its place, which is all of it or nothing.

    `prefix` is what names in the stage file begin with. Raises CheckpointMismatch for a file that holds a part of it.
    """
    if trained and (missing := base.keys() - trained.keys()):
        file = origin_of(next(iter(trained.values())), Origin("the stage file", "")).file
        name = prefix + origin_of(base[min(missing)], Origin("", min(missing))).name
        raise CheckpointMismatch(
            f"{file}: it holds {len(trained)} tensors of the {what}, but {len(missing)} are missing (first: {name}); "
            "delete it and download it again."
        )
    return base | trained


def take_lora(tensors: Tensors, *, prefix: str, alpha: float) -> Lora | None:
    """Remove and return the LoRA pairs of a checkpoint, keyed by the weight they update; None if there are none.

    Accepts peft's older names (`…lora_A.weight`, peft 0.2) and newer ones (`…lora_A.default.weight`).
    """
    pattern = re.compile(rf"^{re.escape(prefix)}(.+)\.lora_([AB])(?:\.default)?\.weight$")
    halves: dict[str, dict[str, Tensor]] = {}
    for name in list(tensors):
        if match := pattern.match(name):
            halves.setdefault(f"{match[1]}.weight", {})[match[2]] = tensors.pop(name)
    if not halves:
        return None
    for pair in halves.values():
        if pair.keys() != {"A", "B"}:
            ((kind, half),) = pair.items()
            place = origin_of(half, Origin("LoRA", f"lora_{kind}.weight"))
            other = place.name.replace(f".lora_{kind}.", f".lora_{'B' if kind == 'A' else 'A'}.")
            raise CheckpointMismatch(
                f"{place.file}: of a LoRA pair only one matrix is there, {other} is missing; "
                "delete it and download it again."
            )
    lora = Lora(pairs={name: (pair["A"], pair["B"]) for name, pair in halves.items()}, alpha=alpha)
    for name, (lora_a, lora_b) in lora.pairs.items():
        for half, rank in ((lora_a, 0), (lora_b, 1)):
            if half.dim() != 2 or half.shape[rank] != lora.rank:
                raise CheckpointMismatch(
                    f"{origin_of(half, Origin('LoRA', name))} is {list(half.shape)}, but the other LoRA matrices of "
                    f"this checkpoint have rank {lora.rank}; delete it and download it again."
                )
    return lora


def check_lora_rank(lora: Lora, wanted: int | None, *, source: str) -> None:
    """Raises CheckpointMismatch if a configuration names another rank than the tensors have."""
    if wanted not in (None, lora.rank):
        raise CheckpointMismatch(
            f"{source}: its LoRA has rank {lora.rank}, but lora_rank is {wanted}; leave that key out."
        )


def merge_lora(weight: Tensor, lora_a: Tensor, lora_b: Tensor, *, alpha: float) -> Tensor:
    """W + alpha/rank * B @ A in fp32; [out, in]. Source: peft, `LoraLayer.get_delta_weight` (arXiv:2106.09685)."""
    return torch.addmm(weight.float(), lora_b.float(), lora_a.float(), alpha=alpha / lora_a.shape[0])
