"""Train the tiny Phi-2 tokenizer: GPT-2's byte pairs on the scenes' own language, with CodeGen's whitespace tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.tiny.tokenizer import VOCABULARY_SIZE, corpus

END_OF_TEXT = "<|endoftext|>"
_WHITESPACE = (*(" " * length for length in (4, 3, 2)), "\t\t")
_MARKERS = ("###Human: ", "###Assistant: ", "###", "[INST] <Img>", "</Img> ", " [/INST]")


def train_byte_tokenizer(folder: Path, *, num_scenes: int = 3000, seed: int = 1) -> None:
    """Write the tokenizer files of a Phi-2 folder. "###" and every number 0…100 become one piece each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(_WHITESPACE) - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = list(corpus(num_scenes, seed))
    # Merges are learnt by frequency: enough of everything that has to be one piece.
    texts += [*_MARKERS, *(str(number) for number in range(101))] * num_scenes
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.add_tokens([AddedToken(text, normalized=True) for text in _WHITESPACE])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    config = {
        "add_prefix_space": False,
        **special,
        "clean_up_tokenization_spaces": True,
        "model_max_length": 2048,
        "tokenizer_class": "CodeGenTokenizer",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
