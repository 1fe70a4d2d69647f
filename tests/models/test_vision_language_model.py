"""`VisionLanguageModel.forward` and `generate` beyond what the recorded cases cover."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from engine.generate import generate
from models.conversation import Sampling, Turn
from models.loader import load_model
from models.vision_language_model import IMAGE_PLACEHOLDER, VisionLanguageModel
from tests.paths import GOLDENS
from training.stages.lora import attach_lora

CASE = GOLDENS / "minigpt_v2"
IMAGE = Image.open(CASE / "image.png").convert("RGB")
TURNS = [Turn("user", "[vqa] how many people are there?", (IMAGE,))]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model(CASE / "config.yaml", device="cpu", report=None)


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


def test_the_loader_completes_the_facts(model: VisionLanguageModel) -> None:
    assert model.info.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (model.info.device, model.info.dtype, model.info.quantization) == ("cpu", "float32", "none")
    half = load_model(CASE / "config.yaml", device="cpu:0", dtype="bfloat16", report=None)
    assert half.info == replace(model.info, device="cpu:0", dtype="bfloat16")


def test_placeholders_and_image_tokens_must_agree(model: VisionLanguageModel) -> None:
    ids = prompt_ids(model)
    mask = torch.ones_like(ids)
    with pytest.raises(ValueError, match="16 image placeholders, but 2 images give 32 image tokens"):
        model(input_ids=ids, attention_mask=mask, pixel_values=model.pixel_values([IMAGE, IMAGE]))
    with pytest.raises(ValueError, match="no pixel_values"):
        model(input_ids=ids, attention_mask=mask)


def test_kept_lora_gives_the_merged_logits(model: VisionLanguageModel) -> None:
    unmerged = load_model(CASE / "config.yaml", device="cpu", report=None, keep_lora=True)
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


def test_what_ends_an_answer_is_given_or_what_the_config_says(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = (
        "vision_tower", "vision_features", "connector", "language_model", "tokenizer", "image_processor",
        "prompt_format", "num_image_tokens", "info",
    )  # fmt: skip
    build = partial(VisionLanguageModel, **{name: getattr(model, name) for name in slots})
    config = model.language_model.config
    for eos, bos, expected in ((2, 1, ((2,), (1,))), ([2, 5], None, ((2, 5), ()))):
        monkeypatch.setattr(config, "eos_token_id", eos)
        monkeypatch.setattr(config, "bos_token_id", bos)
        assert (build().eos_token_ids, build().penalised_ids) == expected
    given = build(eos_token_ids=(7, 8), penalised_ids=())
    assert (given.eos_token_ids, given.penalised_ids) == ((7, 8), ())
    monkeypatch.setattr(config, "eos_token_id", None)
    assert build().eos_token_ids == ()  # which the loader refuses
