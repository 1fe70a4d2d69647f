"""Phi-2's tokenizer decodes as transformers 4.36 did."""

from __future__ import annotations

import pytest

from models.tokenizers.codegen import clean_up

# What `PreTrainedTokenizerBase.clean_up_tokenization` made of these texts.
CLEANED = {
    "a . b ? c ! d , e": "a. b? c! d, e",
    "they ' re": "they're",
    "I do n't , I 'm": "I don't, I'm",
    "it 's , we 've , you 're": "it's, we've, you're",
    "he 'll": "he 'll",
    "a ' b": "a'b",
    " .": ".",
}


@pytest.mark.parametrize("text", CLEANED)
def test_spaces_before_punctuation_and_contractions_are_removed(text: str) -> None:
    assert clean_up(text) == CLEANED[text]
