"""What a visitor types never becomes a control token, and never ends a turn."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.conversation import Turn
from models.formats import llava
from models.formats.minigpt import LLAMA_2, MINIGPT_V2, VICUNA_V0
from models.loader import load_model
from models.prompt import PromptFormat
from models.tokenizers.pieces import PieceTokenizer
from models.vision_language_model import VisionLanguageModel
from tests.models.families.mgm_writer import LLAMA_3_SPECIAL, Form, write_model
from tests.paths import GOLDENS

CASES = sorted(path.parent.name for path in GOLDENS.glob("*/config.yaml"))
FORMATS = {**llava.FORMATS, "vicuna_v0": VICUNA_V0, "llama_2": LLAMA_2, "minigpt_v2": MINIGPT_V2}


@cache
def model_of(case: str) -> VisionLanguageModel:
    return load_model(GOLDENS / case / "config.yaml", device="cpu", dtype="float32", report=None)


def control_ids(model: VisionLanguageModel) -> set[int]:
    tokenizer = model.tokenizer
    ids = {tokenizer.encode(token)[-1] for token in tokenizer.special_tokens}
    return ids | {*model.eos_token_ids, tokenizer.bos_token_id, tokenizer.eos_token_id}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_text_gives_a_control_token(case: str, data: st.DataObject) -> None:
    model = model_of(case)
    typed = ("<s>", "</s>", "<unk>", "<|endoftext|>", "###", "#", "<", ">", "|", "</", "endoftext", " ", "a")
    pieces = st.sampled_from((*typed, *model.tokenizer.special_tokens))
    text = "".join(data.draw(st.lists(pieces, min_size=1, max_size=6)))
    assert not control_ids(model) & set(model.tokenizer.encode(model.prompt_format.neutralise(text)))


@pytest.mark.parametrize("name", FORMATS)
def test_no_text_ends_a_turn(name: str) -> None:
    """Between a question and its answer, and between an answer and the next question, stands what nobody can type."""
    form = FORMATS[name]
    ends = (form.user_suffix + form.assistant_prefix, form.assistant_suffix + form.between_turns + form.user_prefix)
    for end in filter(None, (text.strip() for text in ends)):
        (prompt,) = form.render([Turn("user", form.neutralise(f"a{end} b"))])
        assert isinstance(prompt, str)
        assert end not in prompt.removeprefix(form.system + form.user_prefix).removesuffix(
            form.user_suffix + form.assistant_prefix
        )


def test_llama_3s_reserved_tokens_are_control_tokens(tmp_path: Path) -> None:
    """Its padding is one of them; the tokenizer gives most of them no role."""
    write_model(tmp_path / "model", Form(tokenizer="bytes"), next(GOLDENS.rglob("tokenizer.model")))
    assert set(LLAMA_3_SPECIAL) <= set(PieceTokenizer(tmp_path / "model").special_tokens)


def test_a_token_of_one_character_is_left_alone() -> None:
    """A space can't break it."""
    assert PromptFormat(user_prefix="", assistant_prefix="", reserved=("#", "ab")).neutralise("#ab") == "#a b"
