"""What a Mini-Gemini must compute: plain formulas over the tensors by their released names, in float32.

Source of the formulas: MGM, `clip_encoder.py`, `openclip_encoder.py`, `mgm_arch.py`, and transformers 4.36's Llama and
Mixtral. L tokens; P, S, H and the other sizes are those of mgm_writer.py.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tests.models.families.mgm_writer import CLIP, EXPERTS, HEADS, HIDDEN, KV_HEADS, LAYERS, STAGES, Form, P, S

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Reference:
    """The formulas over one model's tensors, in float32."""

    def __init__(self, tensors: dict[str, Tensor], form: Form) -> None:
        self._tensors, self._form = tensors, form

    def embeds(self, pieces: list[list[int] | Image.Image]) -> Tensor:
        """Token ids and pictures in their order -> [L, H]."""
        table = self._tensors["model.embed_tokens.weight"]
        return torch.cat([self.image(piece) if isinstance(piece, Image.Image) else table[piece] for piece in pieces])

    def image(self, image: Image.Image) -> Tensor:
        """A picture -> its rows in the prompt: the whole first, then the crops, for an HD model."""
        grid, side = self._form.grid, CLIP["image_size"]
        high = _pixels(image, grid * P * 4 * S)
        full = _resized(high, grid * side)
        map_ = self._stages(high)
        if grid == 1:
            mined = [self._mine(self._patches(full), map_)]
        else:
            half = map_.shape[1] // 2
            mined = [self._mine(self._patches(_resized(full, side)), _resized(map_, half))]
            for row in range(2):
                for column in range(2):
                    crop = full[:, row * side :, column * side :][:, :side, :side]
                    tile = map_[:, row * half :, column * half :][:, :half, :half]
                    mined.append(self._mine(self._patches(crop), tile))
        inner = functional.gelu(self._linear("model.mm_projector.0", torch.cat(mined)))
        return self._linear("model.mm_projector.2", inner)

    def _patches(self, pixels: Tensor) -> Tensor:
        """CLIP up to its last but one layer, CLS dropped: [3, 28, 28] -> [P * P, width]."""
        base = "model.vision_tower.vision_tower.vision_model"
        weight = self._tensors[f"{base}.embeddings.patch_embedding.weight"]
        size = CLIP["patch_size"]
        cut = [tile for row in pixels.split(size, dim=1) for tile in row.split(size, dim=2)]
        patches = [(weight * patch).sum(dim=(1, 2, 3)) for patch in cut]
        states = torch.stack([self._tensors[f"{base}.embeddings.class_embedding"], *patches])
        states = states + self._tensors[f"{base}.embeddings.position_embedding.weight"]
        states = self._norm(f"{base}.pre_layrnorm", states)
        for layer in range(CLIP["num_hidden_layers"] - 1):
            name = f"{base}.encoder.layers.{layer}"
            normed = self._norm(f"{name}.layer_norm1", states)
            joint = (self._linear(f"{name}.self_attn.{n}_proj", normed) for n in "qkv")
            q, k, v = (states.chunk(CLIP["num_attention_heads"], dim=1) for states in joint)
            heads = [(a @ b.T / math.sqrt(a.shape[1])).softmax(1) @ c for a, b, c in zip(q, k, v, strict=True)]
            states = states + self._linear(f"{name}.self_attn.out_proj", torch.cat(heads, dim=1))
            inner = self._linear(f"{name}.mlp.fc1", self._norm(f"{name}.layer_norm2", states))
            states = states + self._linear(f"{name}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
        return states[1:]

    def _stages(self, pixels: Tensor) -> Tensor:
        """ConvNeXt's four stages at the size of the first, joined: [3, N, N] -> [channels, N / 4, N / 4]."""
        base = "model.vision_tower_aux"
        states = self._norm_channels(f"{base}.vision_stem.1", self._conv(f"{base}.vision_stem.0", pixels, stride=4))
        stages: list[Tensor] = []
        for stage, depth in enumerate(STAGES["depths"]):
            name = f"{base}.vision_stages.{stage}"
            if stage:
                normed = self._norm_channels(f"{name}.downsample.0", states)
                states = self._conv(f"{name}.downsample.1", normed, stride=2)
            for block in range(depth):
                inside = f"{name}.blocks.{block}"
                mixed = self._conv(f"{inside}.conv_dw", states, padding=3, groups=len(states)).permute(1, 2, 0)
                inner = self._linear(f"{inside}.mlp.fc1", self._norm(f"{inside}.norm", mixed, eps=1e-6))
                outer = self._linear(f"{inside}.mlp.fc2", functional.gelu(inner))
                states = states + (outer * self._tensors[f"{inside}.gamma"]).permute(2, 0, 1)
            stages.append(states)
        return torch.cat([_resized(stage, stages[0].shape[1]) for stage in stages])

    def _mine(self, low: Tensor, high: Tensor) -> Tensor:
        """[P * P, width] and [channels, P * S, P * S] -> [P * P, width], one patch at a time."""
        mined = []
        for index, patch in enumerate(low):
            row, column = divmod(index, P)
            window = high[:, row * S : (row + 1) * S, column * S : (column + 1) * S].flatten(1).T
            query = self._projected("query", patch)
            weights = (self._projected("aux", window) @ query / math.sqrt(len(query))).softmax(0)
            mined.append(patch + weights @ self._projected("val", window))
        return torch.stack(mined)

    def _projected(self, name: str, states: Tensor) -> Tensor:
        normed = self._norm(f"model.vlm_uni_{name}_projector.0", states)
        return self._linear(f"model.vlm_uni_{name}_projector.1", normed)

    def logits(self, embeds: Tensor) -> Tensor:
        """[L, H] -> [L, rows]: Llama, or Mixtral where the form is sparse."""
        states = embeds
        for layer in range(LAYERS):
            name = f"model.layers.{layer}"
            states = states + self._attention(name, self._rms(f"{name}.input_layernorm", states))
            normed = self._rms(f"{name}.post_attention_layernorm", states)
            if self._form.is_sparse:
                states = states + torch.stack([self._experts(f"{name}.block_sparse_moe", token) for token in normed])
            else:
                gate, up, down = (self._tensors[f"{name}.mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
                states = states + functional.silu(normed @ gate.T) * (normed @ up.T) @ down.T
        return self._rms("model.norm", states) @ self._tensors["lm_head.weight"].T

    def _attention(self, name: str, states: Tensor) -> Tensor:
        width = HIDDEN // HEADS
        q, k, v = (
            (states @ self._tensors[f"{name}.self_attn.{n}_proj.weight"].T).split(width, dim=1) for n in ("q", "k", "v")
        )
        seen = torch.ones(len(states), len(states)).tril().bool()
        heads = []
        for head in range(HEADS):
            group = head * KV_HEADS // HEADS
            scores = self._rotated(q[head]) @ self._rotated(k[group]).T / math.sqrt(width)
            heads.append(scores.masked_fill(~seen, -math.inf).softmax(1) @ v[group])
        return torch.cat(heads, dim=1) @ self._tensors[f"{name}.self_attn.o_proj.weight"].T

    def _rotated(self, vectors: Tensor) -> Tensor:
        half = vectors.shape[1] // 2
        theta = self._form.values.get("rope_theta", 10000.0)
        angles = torch.arange(len(vectors))[:, None] / theta ** (torch.arange(half) / half)
        first, second = vectors[:, :half], vectors[:, half:]
        turned = first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()
        return torch.cat(turned, dim=1)

    def _experts(self, name: str, token: Tensor) -> Tensor:
        """The two likeliest experts, weighted by their probabilities brought to a sum of 1."""
        probabilities = (self._tensors[f"{name}.gate.weight"] @ token).softmax(0)
        chosen = sorted(range(EXPERTS), key=probabilities.tolist().__getitem__)[-2:]
        output = torch.zeros_like(token)
        for expert in chosen:
            w1, w2, w3 = (self._tensors[f"{name}.experts.{expert}.w{n}.weight"] for n in (1, 2, 3))
            inner = functional.silu(w1 @ token) * (w3 @ token)
            output += probabilities[expert] / probabilities[chosen].sum() * (w2 @ inner)
        return output

    def _linear(self, name: str, states: Tensor) -> Tensor:
        return states @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]

    def _norm(self, name: str, states: Tensor, eps: float = 1e-5) -> Tensor:
        centred = states - states.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]

    def _norm_channels(self, name: str, states: Tensor) -> Tensor:
        return self._norm(name, states.permute(1, 2, 0), eps=1e-6).permute(2, 0, 1)

    def _rms(self, name: str, states: Tensor) -> Tensor:
        return self._tensors[f"{name}.weight"] * states / (states.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def _conv(self, name: str, states: Tensor, **options: int) -> Tensor:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return functional.conv2d(states[None], weight, bias, **options)[0]


def _pixels(image: Image.Image, size: int) -> Tensor:
    """Padded to a square with the mean colour, resized, normalised: [3, size, size]."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    values = np.array(square.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    return (torch.from_numpy(values).permute(2, 0, 1) - mean) / std


def _resized(states: Tensor, side: int) -> Tensor:
    """[C, N, N] -> [C, side, side], bilinear between the centres of positions."""
    return functional.interpolate(states[None], size=(side, side), mode="bilinear", align_corners=False)[0]
