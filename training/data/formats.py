"""Which reader reads which annotation format, by the name a training config gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from models.errors import ConfigError
from training.data.boxes import (
    FlickrCaptionToPhrases,
    FlickrGroundedCaptions,
    FlickrPhraseToBoxes,
    InverseReferReader,
    ReferReader,
    VisualGenomeRegions,
)
from training.data.captions import AlignedCaptions, CocoCaptions, ShardCaptions, TextCaps
from training.data.conversations import ConversationReader, FirstTurnReader, LlavaReader, UnnaturalInstructions
from training.data.drawn_scenes import SceneReader
from training.data.readers import DatasetPaths, DatasetReader
from training.data.vqa import AokVqaReader, GqaReader, OcrVqaReader, VqaReader
from training.recipe import Recipe
from training.scenes.task_mixtures import MINIGPT4_MIXTURE, MINIGPT_V2_MIXTURE

FORMATS: Mapping[str, Callable[[DatasetPaths], DatasetReader]] = {
    "laion": ShardCaptions,
    "cc_sbu": ShardCaptions,
    "laion_caption": partial(ShardCaptions, instructed=True),
    "cc_sbu_caption": partial(ShardCaptions, instructed=True),
    "cc_sbu_align": AlignedCaptions,
    "coco_caption": CocoCaptions,
    "textcaps_caption": TextCaps,
    "coco_vqa": VqaReader,
    "ok_vqa": VqaReader,
    "aok_vqa": AokVqaReader,
    "gqa": GqaReader,
    "ocrvqa": OcrVqaReader,
    "refcoco": partial(ReferReader, split_by="unc"),
    "refcocop": partial(ReferReader, split_by="unc"),
    "refcocog": partial(ReferReader, split_by="umd"),
    "invrefcoco": partial(InverseReferReader, split_by="unc"),
    "invrefcocop": partial(InverseReferReader, split_by="unc"),
    "invrefcocog": partial(InverseReferReader, split_by="umd"),
    "refvg": VisualGenomeRegions,
    "flickr_grounded_caption": FlickrGroundedCaptions,
    "flickr_CaptionToPhrase": FlickrCaptionToPhrases,
    "flickr_ObjectToPhrase": FlickrPhraseToBoxes,
    "llava_conversation": ConversationReader,
    "llava_detail": FirstTurnReader,
    "llava_reason": FirstTurnReader,
    "multitask_conversation": ConversationReader,
    "unnatural_instruction": UnnaturalInstructions,
    "mgm_pretrain": LlavaReader,
    "mgm_instruction": LlavaReader,
    "mgm_generation": LlavaReader,
    "moe_llava": LlavaReader,
    "scenes_boxes": partial(SceneReader, mixture=MINIGPT_V2_MIXTURE),  # for models with task identifiers
    "scenes_chat": partial(SceneReader, mixture=MINIGPT4_MIXTURE),
}


def check_formats(recipe: Recipe) -> None:
    """Raises ConfigError if a data set of the recipe is of a format that nothing here reads."""
    for dataset in (*recipe.data.datasets, *recipe.evaluation.datasets):
        if dataset.format not in FORMATS:
            raise ConfigError(f"{recipe.source}: unknown data format {dataset.format!r}; known: {', '.join(FORMATS)}.")
