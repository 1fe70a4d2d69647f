"""Train the tiny LLaMA-style tokenizer: sentencepiece BPE with byte fallback on the scenes' own language."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece

from models.formats.minigpt import VICUNA_V0
from training.scenes.question_makers import MAKERS, vary
from training.scenes.scene import sample_scene
from training.scenes.small_talk import SMALL_TALK

VOCABULARY_SIZE = 1024
COORDINATES = tuple(f"<{value}>" for value in range(101))
_MARKERS = (
    *("[INST]", "[/INST]", "<Img>", "</Img>", "###", "$$", "<p>", "</p>", "<delim>"),
    *("[caption]", "[vqa]", "[refer]", "[identify]", "[detection]", "[grounding]"),
)


def corpus(num_scenes: int, seed: int) -> Iterator[str]:
    """Texts of the kind that the models read and write."""
    rng = np.random.default_rng([seed, 7])
    for _ in range(num_scenes):
        scene = sample_scene(rng, held_out="any")
        for make in MAKERS.values():
            sample = make(rng, scene)
            if sample is not None:
                yield vary(rng, sample).prompt
                yield sample.answer
    for prompts, answer in SMALL_TALK:
        for text in (*prompts, *(prompt.capitalize() for prompt in prompts), answer):
            yield from [text] * (num_scenes // 100)
    system = VICUNA_V0.system
    yield from [f"{system}Human: ", "Assistant: ", system] * (num_scenes // 20)


def train_tokenizer(save_to: Path, *, num_scenes: int = 3000, seed: int = 1) -> None:
    """Write `tokenizer.model` with the special ids, dummy prefix and whitespace rules of LLaMA's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(num_scenes, seed),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY_SIZE,
        user_defined_symbols=[*COORDINATES, *_MARKERS],
        byte_fallback=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=1,
    )
    save_to.write_bytes(model.getvalue())


def write_tokenizer_configs(folder: Path, *, legacy: bool = True) -> None:
    """The two small JSON files that stand beside `tokenizer.model` in the LLaMA folders.

    `legacy` is that of the MiniGPT family; folders of the LLaVA line have False.
    """
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    described = {
        key: {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        for key, text in special.items()
    }
    config = {
        **special,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": legacy,
        "model_max_length": 2048,
        "tokenizer_class": "LlamaTokenizer",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(described, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
