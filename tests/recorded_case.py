"""A recorded run of an original implementation, in any of the forms that the recordings have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from models.conversation import Turn
from models.preprocessing import CropAndResize
from models.vision_language_model import VisionLanguageModel
from training.data.llava_sequences import PLAIN, make_llava_batch, read_turns
from training.data.minigpt_sequences import Batch, PromptedExample, conversation_answers, make_batch

Answers = list[tuple[tuple[str, bool], ...]]  # for each sample, its pieces of text and whether each is predicted

MINIGPT_HISTORIES = {"turns": 1.0, "turns_repetition_penalty_1.05": 1.05}
TINYGPT_HISTORIES = ("turns", "turns_with_answers_kept_in_history")
MGM_HISTORIES = ("turns", "multi_image", "text_only")
# Around the questions of an MGM prompt, by the conversation's name: what follows one, what comes before a later one.
MGM_MARKS = {
    "gemma": ("<end_of_turn>", "<eos><start_of_turn>user\n"),
    "vicuna_v1": (" ASSISTANT:", "</s>USER: "),
    "mistral_instruct": (" [/INST]", "</s><s>[INST] "),
    "chatml_direct": ("<|im_end|>", "<|im_end|><|im_start|>user\n"),
    "llama_3": ("<|eot_id|>", "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"),
}


@dataclass(frozen=True, kw_only=True)
class RecordedTurn:
    """One greedy answer of the reference and how it came about; `text` is None where only the ids were recorded."""

    turns: list[Turn]
    segments: list[str]
    segment_ids: list[list[int]]
    penalty: float
    max_new_tokens: int
    ids: list[int]
    text: str | None
    raw: str


@dataclass(frozen=True, kw_only=True)
class RecordedStep:
    """One training step of the reference: the batch, the loss, and the gradient norm of every trainable tensor.

    The norm is 0 for what no gradient reached, such as experts that no token went to.
    """

    make_batch: Callable[[VisionLanguageModel], Batch]
    loss: float
    gradient_norms: dict[str, float]
    zero_by_symmetry: frozenset[str] = frozenset()  # what was recorded for these is rounding noise


@dataclass(frozen=True)
class Case:
    """A folder with case.json, training.json, expected.safetensors, pictures, weights and our config.yaml."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text())

    @cached_property
    def training(self) -> dict[str, Any]:
        return json.loads((self.folder / "training.json").read_text())

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        return load_file(self.folder / "expected.safetensors")

    @property
    def is_tinygpt(self) -> bool:
        """TinyGPT-V's form of recording."""
        return str(self.record.get("family", "")).startswith("tinygpt")

    @property
    def is_mgm(self) -> bool:
        """Mini-Gemini's form of recording."""
        return self.record.get("family") == "mini_gemini"

    @property
    def is_moe(self) -> bool:
        """MoE-LLaVA's form of recording."""
        return self.record.get("family") == "moe_llava"

    def tensor(self, *names: str) -> Tensor | None:
        """The first of the named tensors that was recorded."""
        return next((self.expected[name] for name in names if name in self.expected), None)

    def image(self, name: str = "image.png") -> Image.Image:
        return Image.open(self.folder / name).convert("RGB")

    def histories(self) -> list[str]:
        """Names of the recorded conversations."""
        if self.is_mgm:
            return [name for name in MGM_HISTORIES if name == "turns" or name in self.record]
        return [name for name in (*MINIGPT_HISTORIES, *TINYGPT_HISTORIES[1:]) if name in self.record]

    def conversation(self, history: str) -> Iterator[RecordedTurn]:
        """Every recorded answer with the turns before it as that recording had them."""
        if self.is_mgm:
            yield from self._mgm_conversation(history)
            return
        if self.is_moe:
            yield from self._moe_conversation()
            return
        turns: list[Turn] = []
        for index, record in enumerate(self.record[history]):
            question = record["question"] if self.is_tinygpt else self.record["questions"][index]
            turns.append(Turn("user", question, (self.image(),) if index == 0 else ()))
            yield from self._tinygpt_turn(record, turns) if self.is_tinygpt else [self._turn(history, record, turns)]
            # TinyGPT-V's stage-4 demo forgets its answers: their place in the history stays empty.
            forgets = self.is_tinygpt and history == "turns" and TINYGPT_HISTORIES[1] in self.record
            turns.append(Turn("assistant", "" if forgets else record["answer"]))

    def _turn(self, history: str, record: dict[str, Any], turns: list[Turn]) -> RecordedTurn:
        return RecordedTurn(
            turns=list(turns),
            segments=record["segments"],
            segment_ids=record["segment_ids"],
            penalty=MINIGPT_HISTORIES[history],
            max_new_tokens=self.record["generation"]["max_new_tokens"],
            ids=record["output_ids"][1:],  # transformers 4.30 puts one BOS in front
            text=record["answer"],
            raw=record["raw_decoded"],
        )

    def _tinygpt_turn(self, record: dict[str, Any], turns: list[Turn]) -> Iterator[RecordedTurn]:
        for penalty, key in ((1.05, "greedy_ids"), (1.0, "greedy_ids_rep_penalty_1.0")):
            yield RecordedTurn(
                turns=list(turns),
                segments=record["segments"],
                segment_ids=record["segment_ids"],
                penalty=penalty,
                max_new_tokens=record["max_new_tokens"],
                ids=record[key],
                text=record["answer"] if penalty != 1 else None,
                raw=record["raw_text"],
            )

    def _mgm_conversation(self, history: str) -> Iterator[RecordedTurn]:
        after, between = MGM_MARKS[self.record["conversation_template"]]
        turns: list[Turn] = []
        for key in ("turn1", "turn2") if history == "turns" else (history,):
            record = self.record[key]
            segments = record.get("segment_texts", [record["prompt"]])
            bos = self.record["tokenizer"]["bos"]
            # The reference tokenizes every piece with its BOS and drops all but the first.
            first, *rest = record.get("segment_token_ids", [record["input_ids"]])
            first_question = self.record["turn1"]["segment_texts"][-1].removeprefix("\n").split(after)[0]
            question = segments[-1].removeprefix("\n").split(after)[0] if history == "multi_image" else first_question
            if key == "turn2":
                question = segments[-1].rsplit(between, 1)[1].split(after)[0]
            names = record.get("images", self.record["images"]) if key in ("turn1", "multi_image") else []
            turns.append(Turn("user", question, tuple(self.image(name) for name in names)))
            yield RecordedTurn(
                turns=list(turns),
                segments=segments,
                segment_ids=[first, *(ids[1:] if ids[:1] == [bos] else ids for ids in rest)],
                penalty=1.0,
                max_new_tokens=18 if key == "text_only" else self.record["generation"]["max_new_tokens"],
                ids=record["generated_ids"],
                text=record.get("decoded_stripped"),
                raw=record.get("decoded", ""),
            )
            turns.append(Turn("assistant", record.get("decoded_stripped", "")))

    def _moe_conversation(self) -> Iterator[RecordedTurn]:
        turns: list[Turn] = []
        for index, record in enumerate(self.record["turns"]):
            turns.append(Turn("user", record["user"], (self.image(self.record["image"]),) if index == 0 else ()))
            yield RecordedTurn(
                turns=list(turns),
                segments=record["prompt"].split("<image>"),
                segment_ids=record["segment_ids"],
                penalty=self.record["generation"]["repetition_penalty"],
                max_new_tokens=self.record["generation"]["max_new_tokens"],
                ids=record["generated_ids"],
                text=record["generated_text"],
                raw=record["text_with_special"],
            )
            turns.append(Turn("assistant", record["generated_text"]))

    def steps(self) -> list[str]:
        """Names of the recorded training steps."""
        if self.is_mgm:
            return [name for name in ("stage1", "stage2") if name in self.training]  # HD models have stage 2 alone
        if self.is_moe:
            return ["stage3", *(["noisy"] if "noisy" in self.training else [])]
        if self.is_tinygpt:
            return ["batch", *(["conversation"] if "conversation_case" in self.training else [])]
        return ["batch", *self.training.get("extra_cases", {})]

    def step(self, kind: str) -> RecordedStep:
        """One recorded training step."""
        if self.is_mgm:
            return self._mgm_step(kind)
        if self.is_moe:
            return self._moe_step(kind)
        return self._tinygpt_step(kind) if self.is_tinygpt else self._minigpt_step(kind)

    def _tinygpt_step(self, kind: str) -> RecordedStep:
        record = self.training if kind == "batch" else self.training["conversation_case"]
        end, template = self.training["end_sym"], "[INST] {} [/INST]"
        if kind == "batch":
            prompts = record["rendered_instructions"]
            answers: Answers = [((text + end, True),) for text in record["answers"]]
            norms = {parameter["name"]: parameter["grad_norm"] for parameter in record["trainable_parameters"]}
        else:
            prompts, answers = _conversations(record, end=end, template=template, bos="<|endoftext|>")
            norms = record["grad_norms"]
        samples = [
            PromptedExample(p, a, self.image(name))
            for p, a, name in zip(prompts, answers, record["images"], strict=True)
        ]
        batch = partial(make_batch, samples=samples, max_text_tokens=self.training["max_txt_len"])
        return RecordedStep(make_batch=batch, loss=record["loss"], gradient_norms=norms)

    def _mgm_step(self, kind: str) -> RecordedStep:
        record = self.training[kind]
        items = json.loads((self.folder / record["data_file"]).read_text())
        batch = partial(
            make_llava_batch,
            conversations=[read_turns(item, self.folder) for item in items],
            prompt_format=PLAIN if record["conversation_version"] == "plain" else None,
            image_processor=(
                CropAndResize(self.record["dims"]["image_size_aux"])
                if record["image_aspect_ratio"] == "square"
                else None
            ),
        )
        return RecordedStep(
            make_batch=batch,
            loss=record["loss"],
            gradient_norms=dict.fromkeys(record["trainable_parameters"], 0.0) | record["grad_l2_norms"],
            zero_by_symmetry=frozenset(record["zero_by_symmetry"]),
        )

    def _moe_step(self, kind: str) -> RecordedStep:
        record = self.training["noisy"] if kind == "noisy" else self.training
        items = json.loads((self.folder / self.training["data_file"]).read_text())
        conversations = [read_turns(item, self.folder) for item in items]
        batch = partial(make_llava_batch, conversations=conversations, cuts_after_images=False)
        norms = dict.fromkeys(self.training["trainable"], 0.0) | record["grad_l2_norm"]
        return RecordedStep(make_batch=batch, loss=record["loss"], gradient_norms=norms)

    def _minigpt_step(self, kind: str) -> RecordedStep:
        settings, batch = self.record["config"]["model"], self.training["batch"]
        template = settings["prompt_template"] if settings.get("chat_template") else "{}"
        end, limit = settings["end_sym"], settings["max_txt_len"]
        if kind == "stage1":
            record = batch["stage1"]
            answers: Answers = [((text + record["end_sym"], True),) for text in record["answer"]]
            prompts, limit = ["<ImageHere>"] * len(answers), record["max_txt_len"]
        elif kind == "conversation":
            prompts, answers = _conversations(batch["conv"], end=end, template=template, bos="<s>")
        else:
            record = batch["text_only"] if kind == "text_only" else batch
            prompts = [template.format(text) for text in record["instruction_input"]]
            answers = [((text + end, True),) for text in record["answer"]]
        images = [None, None] if kind == "text_only" else [self.image("image.png"), self.image("image2.png")]
        samples = [PromptedExample(p, a, image) for p, a, image in zip(prompts, answers, images, strict=True)]
        record = self.training if kind == "batch" else self.training["extra_cases"][kind]
        step = partial(make_batch, samples=samples, max_text_tokens=limit)
        return RecordedStep(make_batch=step, loss=record["loss"], gradient_norms=record["grad_l2"])


def _conversations(record: dict[str, Any], *, end: str, template: str, bos: str) -> tuple[list[str], Answers]:
    """Prompts and answer pieces of recorded multi-turn samples, which join their turns with `connect_sym`."""
    questions = [text.split(record["connect_sym"]) for text in record["conv_q"]]
    replies = [text.split(record["connect_sym"]) for text in record["conv_a"]]
    answers = [
        conversation_answers(q, a, end=end, template=template, bos=bos) for q, a in zip(questions, replies, strict=True)
    ]
    return [template.format(first) for first, *_ in questions], answers
