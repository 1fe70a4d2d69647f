"""`VisionLanguageModel`: a vision tower, a connector and a language model, whatever the family.

Shapes: B images or sequences, L tokens, N image tokens per image, H width of the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from models.conversation import Turn
from models.memory.serving import Serving
from models.model_info import ModelInfo
from models.prompt import PromptFormat, Segment
from models.tensors.weights import Lora

IMAGE_PLACEHOLDER = -1  # stands for one image token in `input_ids` of `forward`
IGNORED_LABEL = -100


class Tokenizer(Protocol):
    """Text <-> ids exactly as the family's reference does it."""

    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    special_tokens: tuple[str, ...]  # texts that `encode` takes for control tokens

    def __len__(self) -> int: ...
    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Ids of one text segment."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens and ids without a piece dropped. Never raises."""


class ImageProcessor(Protocol):
    """A picture -> what the vision tower takes."""

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture -> pixel values [3, S, S]."""

    def key(self, image: Image.Image) -> str:
        """Equal for pictures that give equal pixel values in this preprocessing."""


class VisionLanguageModel(nn.Module):
    """Encodes pictures into image tokens and answers about them. Families fill the slots.

    `vision_features` is what the tower gives the connector: pixel values [B, 3, S, S] float32 -> features, for most
    families [B, P, V]; it casts to the tower's own dtype.
    `embed_scale` multiplies image tokens on their way into a language model that scales its own embeddings (Gemma).
    `eos_token_ids` end an answer; `penalised_ids` count as already said for the repetition penalty (the id that the
    originals' `generate` puts before an answer). Left out, they are the EOS and the BOS of the language model's config.
    What the tokenizer reads as control tokens is reserved in the prompt format.
    The loader completes `info`, and sets `lora` where it was asked to leave it out of the weights.
    """

    def __init__(
        self,
        *,
        vision_tower: nn.Module,
        vision_features: Callable[[Tensor], Any],
        connector: nn.Module,
        language_model: PreTrainedModel,
        tokenizer: Tokenizer,
        image_processor: ImageProcessor,
        prompt_format: PromptFormat,
        num_image_tokens: int,
        info: ModelInfo,
        embed_scale: float = 1.0,
        eos_token_ids: Sequence[int] | None = None,
        penalised_ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.vision_tower = vision_tower
        self.connector = connector
        self.language_model = language_model
        self.vision_features = vision_features
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        reserved = dict.fromkeys((*prompt_format.reserved, *tokenizer.special_tokens))
        self.prompt_format = replace(prompt_format, reserved=tuple(reserved))
        self.num_image_tokens = num_image_tokens
        self.info = info
        self.lora: Lora | None = None
        self.serving = Serving()
        self.embed_scale = embed_scale
        config = language_model.config.get_text_config()
        self.eos_token_ids = _ids(config.eos_token_id if eos_token_ids is None else eos_token_ids)
        self.penalised_ids = _ids(config.bos_token_id if penalised_ids is None else penalised_ids)
        for module in (vision_tower, connector, language_model):
            module.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the language model's embeddings are."""
        return self.text_embedding.weight.device

    @property
    def num_ids(self) -> int:
        """Ids below this have a piece of text. An embedding may have more rows; an answer never holds one of those."""
        return min(len(self.tokenizer), len(self.text_embedding.weight))

    @property
    def text_embedding(self) -> nn.Embedding:
        """The language model's input embedding (or the engine's wrapper around it, which has the same weight)."""
        return cast(nn.Embedding, self.language_model.get_input_embeddings())

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """Preprocessed pictures, [B, 3, S, S] float32 on the CPU."""
        return torch.stack([self.image_processor(image) for image in images])

    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """Pixel values [B, 3, S, S] -> image tokens [B, N, H]; keeps gradients of the connector."""
        device = next(self.vision_tower.parameters()).device
        return self.connector(self.vision_features(pixel_values.to(device)))

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures -> image tokens [B, N, H], no gradients."""
        return self.image_embeds(self.pixel_values(images))

    def image_key(self, image: Image.Image) -> str:
        """A content hash: pictures with the same key have the same image tokens."""
        return self.image_processor.key(image)

    def tokenize(self, segments: Sequence[Segment]) -> list[list[int] | Image.Image]:
        """A rendered prompt with its texts as token ids; BOS goes before the first text, images stay in place."""
        return [
            self.tokenizer.encode(segment, add_bos=index == 0) if isinstance(segment, str) else segment
            for index, segment in enumerate(segments)
        ]

    def count_tokens(self, parts: Sequence[list[int] | Image.Image]) -> int:
        """Length of a tokenized prompt in tokens, those of its images included."""
        return sum(self.num_image_tokens if isinstance(part, Image.Image) else len(part) for part in parts)

    def embed_prompt(self, turns: Sequence[Turn]) -> Tensor:
        """The prompt for the next answer as embeddings [L, H], pictures encoded on the spot."""
        embed = self.text_embedding
        pieces = []
        for segment in self.tokenize(self.prompt_format.render(turns)):
            if isinstance(segment, Image.Image):
                pieces.append(self.encode_images([segment])[0].to(embed.weight.dtype) * self.embed_scale)
            elif segment:
                pieces.append(embed(torch.tensor(segment, device=self.device)))
        return torch.cat(pieces)

    def forward(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Training step: loss (mean over labelled tokens) and logits.

        input_ids [B, L] with IMAGE_PLACEHOLDER at every image token, in the order of `pixel_values` [images, 3, S, S];
        attention_mask [B, L]; labels [B, L] with -100 where nothing is predicted. Raises ValueError if placeholders and
        image tokens do not agree in number.
        """
        is_image = input_ids == IMAGE_PLACEHOLDER
        embeds = self.text_embedding(input_ids.masked_fill(is_image, 0))
        # Sparse layers route padding too, and it counts in their capacity and balance; the reference pads with zeros.
        is_padding = attention_mask.flip(1).cumsum(1).flip(1) == 0
        embeds = embeds.masked_fill(is_padding.unsqueeze(-1), 0)
        if pixel_values is not None:
            image_embeds = self.image_embeds(pixel_values).flatten(0, 1).to(embeds.dtype)  # [images * N, H]
            image_embeds = image_embeds * self.embed_scale
            if len(image_embeds) != int(is_image.sum()):
                raise ValueError(
                    f"input_ids has {int(is_image.sum())} image placeholders, but {len(pixel_values)} images give "
                    f"{len(image_embeds)} image tokens."
                )
            embeds = embeds.masked_scatter(is_image.unsqueeze(-1), image_embeds)
        elif bool(is_image.any()):
            raise ValueError("input_ids has image placeholders, but there are no pixel_values.")
        return self.language_model(inputs_embeds=embeds, attention_mask=attention_mask, labels=labels)


def _ids(given: Sequence[int] | int | None) -> tuple[int, ...]:
    """Token ids in the forms that a transformers configuration has them in: one, several or none."""
    if given is None:
        return ()
    return (given,) if isinstance(given, int) else tuple(given)
