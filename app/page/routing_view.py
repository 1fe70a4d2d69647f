"""Where the tokens of an answer went, as HTML: patches coloured by expert over the picture, and shares per layer.

Everything is made from a `RoutingTrace`; nothing here knows the model. One layer is open at a time, by the browser's
own means (`<details name=…>`), so that the page needs no script for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import Image

from app.chat.picture_uri import picture_uri
from app.chat.pictures import Picture
from app.chat.regions import PALETTE
from app.page.boxes.overlay import drawing_size
from models.routing_trace import LayerRouting, PatchGrid, RoutingTrace, shares

NUMBERED = 0.08  # a share below this is too narrow for a digit


def routing_html(trace: RoutingTrace, picture: Picture | None, *, name: str) -> str:
    """The whole view. `name` is different for every view of a page; `picture` is the one last asked about."""
    image = trace.last_image
    patches = trace.tokens(image) if image is not None and picture is not None else []
    text = trace.tokens(None)
    about = f"{len(patches)} image and {len(text)} text tokens" if patches else f"{len(text)} text tokens"
    rows = "".join(_layer_html(layer, trace.grid, picture, patches, text, name=name) for layer in trace.layers)
    columns = ("<span>Image tokens</span>" if patches else "") + "<span>Text tokens</span>"
    return (
        f'<section class="mv-routing" aria-label="Expert routing"><p>Each layer below has several experts, and every '
        f"token uses two of them. Shown is the first choice of the {about}; open a layer for details.</p>"
        f"{_legend(max(layer.num_experts for layer in trace.layers))}"
        f'<div class="mv-routing-head" aria-hidden="true"><span>Layer</span>{columns}</div>{rows}</section>'
    )


def _layer_html(
    layer: LayerRouting,
    grid: PatchGrid,
    picture: Picture | None,
    patches: Sequence[int],
    text: Sequence[int],
    *,
    name: str,
) -> str:
    groups = {"Image": patches, "Text": text} if patches else {"Text": text}
    bars = "".join(
        _bar(f"{kind} tokens", shares(layer.first, tokens, layer.num_experts)) for kind, tokens in groups.items()
    )
    figure = patch_figure(layer, grid, picture, patches) if picture is not None and patches else ""
    return (
        f'<details class="mv-routing-layer" name="{escape(name)}" data-layer="{layer.layer}">'
        f"<summary><span>Layer {layer.layer}</span>{bars}</summary>{figure}{_table(layer, groups)}</details>"
    )


def patch_figure(layer: LayerRouting, grid: PatchGrid, picture: Picture, patches: Sequence[int]) -> str:
    """The picture with every patch in the colour of its first expert."""
    width, height = drawing_size(*picture.image.size)
    left, top, right, bottom = grid_area(grid, (width, height))
    tint = (
        f'<image class="mv-patches" href="{patch_uri([layer.first[p] for p in patches], grid)}" x="{left:.1f}" '
        f'y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" preserveAspectRatio="none"/>'
    )
    used = shares(layer.first, patches, layer.num_experts)
    words = ", ".join(f"expert {n + 1} {share:.0%}" for n, share in enumerate(used))
    shape = "mv-portrait" if height > width else "mv-landscape"
    return (
        f'<figure class="mv-figure {shape}" style="--mv-ratio:{width / height:.4f}">'
        f'<svg role="img" aria-label="Patches by expert in layer {layer.layer}: {words}" '
        f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">'
        f'<use href="#mv-picture-{picture.key}"/>{tint}</svg></figure>'
    )


def grid_area(grid: PatchGrid, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the square of patches over a drawing of this size; padding lies outside of it."""
    width, height = size
    if grid.fit == "stretch":
        return 0.0, 0.0, float(width), float(height)
    side = max(size) if grid.fit == "pad" else min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def patch_uri(experts: Sequence[int], grid: PatchGrid) -> str:
    """One pixel for each patch as a PNG's data URI; patches that the model does not see stay clear."""
    pixels = Image.new("RGBA", (grid.side, grid.side))
    for place, expert in enumerate(experts, start=grid.first):
        if place < 0:  # CLS, which is nowhere in the picture
            continue
        pixels.putpixel((place % grid.side, place // grid.side), (*_rgb(colour(expert)), 255))
    return picture_uri(pixels, "png")


def colour(expert: int) -> str:
    """The colour of an expert, from the palette for all kinds of colour vision; from the ninth on they repeat."""
    return PALETTE[expert % len(PALETTE)]


def _rgb(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _legend(num_experts: int) -> str:
    items = "".join(
        f'<li><i style="background:{colour(expert)}"></i>Expert {expert + 1}</li>' for expert in range(num_experts)
    )
    return f'<ul class="mv-routing-legend">{items}</ul>'


def _bar(label: str, parts: Sequence[float]) -> str:
    """Shares next to each other, each with its expert's number where there is room for it."""
    words = ", ".join(f"expert {n + 1} {part:.0%}" for n, part in enumerate(parts))
    spans = "".join(
        f'<span style="width:{part:.1%};background:{colour(expert)}">{expert + 1 if part > NUMBERED else ""}</span>'
        for expert, part in enumerate(parts)
    )
    return f'<span class="mv-routing-bar" role="img" aria-label="{escape(label)}: {words}">{spans}</span>'


def _table(layer: LayerRouting, groups: dict[str, Sequence[int]]) -> str:
    """The same in numbers, with the second choices."""
    head = "".join(f"<th>Expert {expert + 1}</th>" for expert in range(layer.num_experts))
    rows = []
    for kind, tokens in groups.items():
        for choice, choices in (("first", layer.first), ("second", layer.second)):
            cells = "".join(f"<td>{part:.0%}</td>" for part in shares(choices, tokens, layer.num_experts))
            rows.append(f"<tr><th>{kind}, {choice} choice</th>{cells}</tr>")
    return f'<div class="mv-routing-table"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
