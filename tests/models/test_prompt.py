"""Prompt formats: strings byte for byte as the fact sheets give them, and answers cut where the originals cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.conversation import Turn
from models.errors import RequestError
from models.families.tinygpt_v import CONVERSATIONS
from models.formats import llava
from models.formats.minigpt import LLAMA_2, MINIGPT_V2, VICUNA_V0
from models.prompt import PromptFormat

IMAGE = Image.new("RGB", (8, 8))
SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
FORMATS = {"vicuna_v0": VICUNA_V0, "llama_2": LLAMA_2, "minigpt_v2": MINIGPT_V2}
EXPECTED = {
    "vicuna_v0": (
        SYSTEM + "###Human: <Img><ImageHere></Img> Describe this image.###Assistant: ",
        SYSTEM
        + "###Human: <Img><ImageHere></Img> Describe this image.###Assistant: A red car.###Human: Why?###Assistant: ",
    ),
    "llama_2": (
        SYSTEM + "<s>[INST] <Img><ImageHere></Img> Describe this image. [/INST] ",
        SYSTEM + "<s>[INST] <Img><ImageHere></Img> Describe this image. [/INST] A red car.<s>[INST] Why? [/INST] ",
    ),
    "minigpt_v2": (
        "<s>[INST] <Img><ImageHere></Img> Describe this image. [/INST]",
        "<s>[INST] <Img><ImageHere></Img> Describe this image. [/INST]A red car.<s>[INST] Why? [/INST]",
    ),
}
formats = pytest.mark.parametrize("name", FORMATS)


def rendered(prompt_format: PromptFormat, turns: list[Turn]) -> str:
    return "".join(part if isinstance(part, str) else "<ImageHere>" for part in prompt_format.render(turns))


@formats
def test_prompts_are_byte_exact(name: str) -> None:
    turns = [Turn("user", "Describe this image.", (IMAGE,)), Turn("assistant", "A red car."), Turn("user", "Why?")]
    assert rendered(FORMATS[name], turns[:1]) == EXPECTED[name][0]
    assert rendered(FORMATS[name], turns) == EXPECTED[name][1]


def test_what_stands_between_turns_does_not_come_first() -> None:
    """The tokenizer adds Mixtral's first BOS; the later ones are written."""
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]
    mistral = llava.FORMATS["mistral_instruct"]
    assert rendered(mistral, turns[:1]) == "[INST] a [/INST]"
    assert rendered(mistral, turns) == "[INST] a [/INST] b </s><s>[INST] c [/INST]"


@formats
def test_images_keep_their_places(name: str) -> None:
    other = Image.new("RGB", (9, 9))
    turns = [Turn("user", "a", (IMAGE,)), Turn("assistant", "b"), Turn("user", "c", (other, IMAGE))]
    segments = FORMATS[name].render(turns)
    assert [part for part in segments if not isinstance(part, str)] == [IMAGE, other, IMAGE]
    assert isinstance(segments[0], str)
    assert isinstance(segments[-1], str)


@formats
def test_an_answer_that_names_the_image_slot_is_text(name: str) -> None:
    """What a model writes comes back as history, and does not go through `neutralise`."""
    turns = [Turn("user", "a", (IMAGE,)), Turn("assistant", "It says <ImageHere>."), Turn("user", "b")]
    before, image, after = FORMATS[name].render(turns)
    assert image is IMAGE
    assert isinstance(before, str)
    assert isinstance(after, str)
    assert "It says < ImageHere>." in after


@formats
def test_text_without_an_image_is_one_segment(name: str) -> None:
    assert len(FORMATS[name].render([Turn("user", "hello <ImageHere>")])) == 1


@formats
def test_turns_must_alternate_and_end_with_a_question(name: str) -> None:
    for turns in ([Turn("assistant", "a")], [Turn("user", "a"), Turn("user", "b")], []):
        with pytest.raises(RequestError):
            FORMATS[name].render(turns)
    with pytest.raises(RequestError, match="end with a question"):
        FORMATS[name].render([Turn("user", "a"), Turn("assistant", "b")])


@formats
@given(
    text=st.lists(st.sampled_from(["<s>", "</s>", "<Img>", "###", "[INST]", "<ImageHere>", "<", "s>", "a"])).map(
        "".join
    )
)
def test_control_tokens_in_user_text_are_broken(name: str, text: str) -> None:
    prompt_format = FORMATS[name]
    safe = prompt_format.neutralise(text)
    assert not any(reserved in safe for reserved in prompt_format.reserved)
    assert safe.replace(" ", "") == text.replace(" ", "")


def test_answers_end_at_the_stop_string() -> None:
    vicuna = FORMATS["vicuna_v0"]
    assert vicuna.finish("A cat.###Human: more") == "A cat."
    assert vicuna.finish("Assistant: A cat.") == "A cat."
    assert vicuna.finish("A.###B.###C.") == "A."
    assert vicuna.finish("Assistant: A. Assistant: B.") == "B."
    assert vicuna.stopped("A cat.###")
    assert not vicuna.stopped("A cat.##")


def test_headings_are_part_of_minigpt_v2s_answers() -> None:
    recipe = "### Ingredients\n- egg\n### Assistant: you"
    assert MINIGPT_V2.finish(recipe) == MINIGPT_V2.clean(recipe) == recipe
    assert not MINIGPT_V2.stopped(recipe)
    stage_4, _ = CONVERSATIONS["minigpt_v2"]
    assert stage_4.finish("A cat.###[INST] more") == "A cat."


@given(st.text(alphabet="#a b", max_size=12))
def test_a_growing_answer_never_shows_part_of_a_stop_string(raw: str) -> None:
    """What was shown stays a prefix of what comes later, and no `#` that turns out to be `###` is ever shown."""
    vicuna = FORMATS["vicuna_v0"]
    final = vicuna.finish(raw)
    for end in range(len(raw) + 1):
        assert final.startswith(vicuna.clean(raw[:end]))
