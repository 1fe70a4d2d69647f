"""`VisionLanguageModel.forward` and `generate` beyond what the recorded cases cover."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from models.conversation import Sampling, Turn
from models.generation import generate
from models.loader import load_model
from models.vision_language_model import IMAGE_PLACEHOLDER, VisionLanguageModel
from training.lora import attach_lora

CASE = Path(__file__).resolve().parents[1] / "goldens" / "minigpt_v2"
IMAGE = Image.open(CASE / "image.png").convert("RGB")
TURNS = [Turn("user", "[vqa] how many people are there?", (IMAGE,))]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model(CASE / "config.yaml", device="cpu", report=lambda _: None)


def prompt_ids(model: VisionLanguageModel) -> torch.Tensor:
    """TURNS as ids [1, L] with placeholders for the image tokens."""
    ids: list[int] = []
    for part in model.tokenize(model.prompt_format.render(TURNS)):
        ids += part if isinstance(part, list) else [IMAGE_PLACEHOLDER] * model.num_image_tokens
    return torch.tensor([ids])


def test_forward_sees_the_same_prompt_as_generate(model: VisionLanguageModel) -> None:
    ids = prompt_ids(model)
    with torch.inference_mode():
        logits = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=model.pixel_values([IMAGE])
        ).logits
        expected = model.language_model(inputs_embeds=model.embed_prompt(TURNS)[None]).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def test_placeholders_and_image_tokens_must_agree(model: VisionLanguageModel) -> None:
    ids = prompt_ids(model)
    mask = torch.ones_like(ids)
    with pytest.raises(ValueError, match="16 image placeholders, but 2 images give 32 image tokens"):
        model(input_ids=ids, attention_mask=mask, pixel_values=model.pixel_values([IMAGE, IMAGE]))
    with pytest.raises(ValueError, match="no pixel_values"):
        model(input_ids=ids, attention_mask=mask)


def test_kept_lora_gives_the_merged_logits(model: VisionLanguageModel) -> None:
    unmerged = load_model(CASE / "config.yaml", device="cpu", report=lambda _: None, keep_lora=True)
    embeds = model.embed_prompt(TURNS)[None]
    with torch.inference_mode():
        merged = model.language_model(inputs_embeds=embeds).logits
        without = unmerged.language_model(inputs_embeds=embeds).logits
        attach_lora(unmerged, dropout=0.0)
        attached = unmerged.language_model(inputs_embeds=embeds).logits
    assert (without - merged).abs().max() > 0.1  # the LoRA of this case does something
    torch.testing.assert_close(attached, merged, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="keep_lora=True"):
        attach_lora(model)


def test_sampling_repeats_with_its_seed_and_beams_search(model: VisionLanguageModel) -> None:
    drawn = [generate(model, [TURNS], Sampling(seed=seed, max_new_tokens=12))[0].ids for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=12)
    beams = generate(model, [TURNS], greedy, num_beams=4)[0]
    assert beams.ids
    assert sequence_log_prob(model, beams.ids) >= sequence_log_prob(model, generate(model, [TURNS], greedy)[0].ids)


def sequence_log_prob(model: VisionLanguageModel, ids: list[int]) -> float:
    """Log probability of an answer to TURNS, per token."""
    prompt = model.embed_prompt(TURNS)
    with torch.inference_mode():
        answer = model.text_embedding(torch.tensor(ids))
        logits = model.language_model(inputs_embeds=torch.cat((prompt, answer))[None]).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids].mean().item()


def test_an_image_is_known_by_its_content(model: VisionLanguageModel) -> None:
    assert model.image_key(IMAGE) == model.image_key(IMAGE.copy())
    assert model.image_key(IMAGE) != model.image_key(IMAGE.rotate(90))
