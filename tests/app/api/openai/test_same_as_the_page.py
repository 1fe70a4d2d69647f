"""The bundled model through the API, the page's endpoint and the engine: the same words, the same boxes."""

from __future__ import annotations

from pathlib import Path

from gradio_client import Client, handle_file  # type: ignore[import-untyped]

from tests.app.api.conftest import BUNDLED
from tests.app.api.serving import Api, joined, request, said
from tests.app.helpers import scene

QUESTIONS = ("[grounding] describe this image in detail", "[detection] red circle", "[vqa] How many shapes?", "Hello!")


def test_greedy_text_is_the_pages(bundled: Api, scene_file: Path) -> None:
    page = Client(bundled.url, verbose=False)
    with bundled.client() as client:
        for question in QUESTIONS:
            asked = request(said(question, scene()), model=BUNDLED, temperature=0)
            answer = client.chat.completions.create(**asked)
            text, regions = page.predict(handle_file(scene_file), question, temperature=0, api_name="/chat")
            message = answer.choices[0].message
            assert message.content == text
            assert len(getattr(message, "regions", [])) == len(regions["regions"])
            assert joined(list(client.chat.completions.create(**asked, stream=True))) == text


def test_a_second_question_finds_the_first_in_memory(bundled: Api) -> None:
    first = said("[vqa] What colour is the circle? Answer in one word, please.", scene())
    with bundled.client() as client:
        answer = client.chat.completions.create(**request(first, model=BUNDLED, temperature=0))
        said_before = {"role": "assistant", "content": answer.choices[0].message.content}
        usage = client.chat.completions.create(
            **request(first, said_before, said("And the square?"), model=BUNDLED, temperature=0)
        ).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.image_tokens == 36
    assert 36 < (usage.prompt_tokens_details.cached_tokens or 0) < usage.prompt_tokens
