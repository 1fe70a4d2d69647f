"""What `generate` does beyond plain answers: prompt lookup, and combinations it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.generate import Generated, generate
from models.errors import RequestError
from models.vision_language_model import VisionLanguageModel
from tests.tiny_model import EOS, FIRST_BYTE, GREEDY, ask, picture, prompt_tokens, say

pytestmark = pytest.mark.usefixtures("quick")


def test_prompt_lookup_changes_no_greedy_answer(model: VisionLanguageModel) -> None:
    long = replace(GREEDY, max_new_tokens=60)
    plain = generate(model, [ask("hi", picture(2))], long)[0]
    assert generate(model, [ask("hi", picture(2))], long, prompt_lookup=5)[0] == plain


@pytest.mark.parametrize("options", [{"num_beams": 2, "prompt_lookup": 3}, {"prompt_lookup": 3}])
def test_prompt_lookup_says_what_it_can_not_do(model: VisionLanguageModel, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="one conversation at a time"):
        generate(model, [ask("a"), ask("b")], GREEDY, **options)


def test_the_ids_end_with_the_one_that_ended_the_answer(model: VisionLanguageModel) -> None:
    say(model, prompt_tokens(model, ask("hi")), "ab")
    (found,) = generate(model, [ask("hi")], GREEDY)
    assert found == Generated([FIRST_BYTE + ord("a"), FIRST_BYTE + ord("b"), EOS], "ab")
