"""What training takes of each GPU, for every full-size recipe: `python -m tests.training.memory` writes the table of
docs/training.md. Names and sizes come from the released layouts, on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from models.tensors.empty import meta_module
from models.tensors.weights import Part
from tests.models.layouts import minigpt_full_size, moe_full_size
from tests.paths import ROOT
from training.families import family_training
from training.recipe import Recipe, load_recipe

DOCUMENT = ROOT / "docs" / "training.md"
MARKS = ("<!-- memory:begin -->\n", "\n<!-- memory:end -->")
GPUS = 8
GIB = 2**30
# Bytes of a value: frozen ones have two; what learns has four, its gradient four, Adam's two moments eight.
HALF, WEIGHT, GRADIENT, MOMENTS = 2, 4, 4, 8
FIRST_LINES = {"minigpt4_vicuna": "minigpt4_vicuna0_7b", "minigpt4_llama2": "minigpt4_llama2_7b"}


@dataclass(frozen=True)
class Count:
    """Values of a model that learn, that stay as they are, and of its largest layer, which sharding gathers as one."""

    learning: int
    frozen: int
    largest: int

    def one(self) -> float:
        """GiB with everything on every GPU."""
        return (self.learning * (WEIGHT + GRADIENT + MOMENTS) + self.frozen * HALF) / GIB

    def fsdp(self) -> float:
        """GiB with torch's FSDP 2: all is spread, and a layer is gathered in two bytes."""
        return self.one() / GPUS + self.largest * HALF / GIB

    def zero2(self) -> float:
        """GiB with ZeRO 2: all values in two bytes, and a share of gradients, of four bytes more and of moments."""
        share = self.learning * (HALF + WEIGHT + MOMENTS) / GPUS
        return ((self.learning + self.frozen) * HALF + share) / GIB

    def zero3(self) -> float:
        """GiB with ZeRO 3: the values are spread, too."""
        share = (self.learning * (HALF + HALF + WEIGHT + MOMENTS) + self.frozen * HALF) / GPUS
        return (share + self.largest * HALF) / GIB


@cache
def _parameters(name: str, *, is_dense: bool) -> Mapping[str, tuple[int, int]]:
    """Of each parameter of a release its number of values, and of those that have LoRA beside them its length and width
    together; `is_dense`: with one expert in the place of all."""
    found = {}
    for key, part in _parts(name).items():
        pairs = part.lora.pairs if part.lora is not None else {}
        for parameter, value in meta_module(part).named_parameters():
            count = value.numel() // (value.shape[0] if is_dense and ".experts." in parameter else 1)
            found[f"{key}.{parameter}"] = (count, sum(value.shape) if parameter in pairs else 0)
    return found


def counted(recipe: Recipe) -> Count:
    """By the rules that a stage itself goes by."""
    stage = family_training(recipe).STAGES[recipe.stage]
    name = _release(recipe.source.stem)
    learning = frozen = 0
    layers: dict[str, int] = {}
    is_dense = recipe.family == "moe_llava" and recipe.stage != "3"
    for parameter, (count, sides) in _parameters(name, is_dense=is_dense).items():
        learns = stage.trains(parameter)
        learning += count * learns + (recipe.lora.rank * sides if stage.lora else 0)
        frozen += count * (not learns)
        layer = ".".join(parameter.split(".")[:4])
        layers[layer] = layers.get(layer, 0) + count
    return Count(learning, frozen, max(layers.values()))


def recipes() -> list[Recipe]:
    """Every recipe that is not a bundled model's."""
    paths = sorted((ROOT / "training" / "configs").glob("*.yaml"))
    return [load_recipe(path) for path in paths if not path.name.startswith("tiny_")]


def _release(recipe: str) -> str:
    """The release whose sizes a recipe's model has."""
    line, _, stage = recipe.rpartition("_")
    dense = [f"{line}_stage2"] if line.startswith("moe_llava") and stage != "stage3" else []
    first = [FIRST_LINES[line]] if line in FIRST_LINES else []
    candidates = (*dense, *first, recipe, line, line.removesuffix("_hd"))
    return next(name for name in candidates if name in moe_full_size.VARIANTS or name in minigpt_full_size.VARIANTS)


def _parts(name: str) -> Mapping[str, Part]:
    if name in moe_full_size.VARIANTS:
        return moe_full_size.parts_of(name, moe_full_size.VARIANTS[name][0])
    return minigpt_full_size.parts_of(name, minigpt_full_size.VARIANTS[name][0])


def table() -> list[str]:
    """Markdown; recipes of one size share a row."""
    rows: dict[str, list[str]] = {}
    for recipe in recipes():
        count = counted(recipe)
        sizes = (count.one(), count.fsdp(), count.zero2(), count.zero3())
        cells = [f"{number / 1e6:,.0f}" for number in (count.learning, count.frozen)] + [
            f"{size:.1f}" for size in sizes
        ]
        rows.setdefault(" | ".join(cells), []).append(recipe.source.stem)
    head = f"| Recipe | Learn | Frozen | Every GPU has all | FSDP, {GPUS} GPUs | ZeRO 2 | ZeRO 3 |"
    return [
        head,
        "|---|" + "--:|" * 6,
        *(f"| {', '.join(f'`{one}`' for one in names)} | {cells} |" for cells, names in rows.items()),
    ]


def main() -> None:
    """Write the table."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    DOCUMENT.write_text(before + MARKS[0] + "\n".join(table()) + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
