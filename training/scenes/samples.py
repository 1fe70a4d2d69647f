"""Questions with answers about scenes, in MiniGPT-v2's task formats, for training and for evaluation alike.

Prompt pools: those of the MiniGPT-v2 fine-tune (`training.instructions`), some with its demo's shortcuts added.
Every answer lists objects from left to right, so that there is one right order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from numpy.random import Generator

from models.grounding import Box, format_box, format_phrase
from training.instructions import CAPTION_POOL, REFER_POOL
from training.scenes import world as vocab
from training.scenes.hard_scenes import covered_shares
from training.scenes.phrases import (
    background_phrase,
    full_phrase,
    listing,
    noun_phrase,
    pick_referable,
    plural,
    with_article,
)
from training.scenes.scene import Scene, SceneObject

IDENTIFY_POOL = (
    "{}",
    "what is this {}",
    "what object is in this location {}",
    "identify the object present at this location {}",
    "what is it in {}",
    "describe this object in {}",
    "this {} is",
    "the object in {} is",
)
GROUNDING_POOL = (
    "describe this image in detail",
    "please describe this image in details",
    "describe this image as detailed as possible",
    "summarize this image in details",
    "give a thorough description of what you see in this image",
)
CHAT_CAPTION_POOL = (
    *("describe the image", "describe this image.", "what do you see?", "what is in this picture?"),
    *("Describe this image in detail.", "what is shown here?", "tell me about the image", "what is in the image?"),
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
VQA_LONG_FORM = "Based on the image, respond to this question with a short answer: {}"
_NAMES = {"shape": vocab.SHAPES, "digit": vocab.DIGITS, "word": vocab.WORDS}
_UNCOVERED = 0.2  # beside the shares of covered objects, how often one is asked for that nothing covers


@dataclass(frozen=True)
class Sample:
    """One question with its answer.

    `items` are the objects that the answer is about, for evaluation; `mentions` are phrases of the prompt with all
    objects that each fits, for training: there the decoder is taught where these objects are.
    """

    task: str
    prompt: str
    answer: str
    items: tuple[SceneObject, ...] = ()
    mentions: tuple[tuple[str, tuple[SceneObject, ...]], ...] = ()


Maker = Callable[[Generator, Scene], Sample | None]


def without_identifier(sample: Sample) -> Sample:
    """The sample for families that know no task identifiers."""
    if not sample.prompt.startswith("["):
        return sample
    return replace(sample, prompt=sample.prompt.partition("] ")[2])


def object_starts(sample: Sample) -> list[tuple[int, SceneObject]]:
    """Where in an answer each of its objects begins: at its box for tasks that give boxes only, else at its phrase."""
    if sample.task not in ("refer", "detection", "grounding", "caption", "story", "odd"):
        return []
    starts = []
    position = 0
    for item in sample.items:
        if sample.task in ("refer", "detection"):
            position = sample.answer.index("{", position)
        else:
            phrase = with_article(full_phrase(item))
            marked = format_phrase(phrase, []) if sample.task == "grounding" else phrase
            position = sample.answer.index(marked, position)
        starts.append((position, item))
        position += 1
    return starts


_DESCRIPTIONS: dict[str, Callable[[SceneObject], str]] = {
    "colour": lambda item: item.colour,
    "shape": lambda item: item.name,
    **dict.fromkeys(("identify", "grounding", "caption", "story", "odd"), full_phrase),
}
"""What answers call an object, by task; others name none, or only as the question does."""


def unseen_answers(sample: Sample) -> list[str]:
    """The answer with an object in it that no training scene has (`HELD_OUT`), one for each that differs in a word.

    An article stays as it is.
    """
    describe = _DESCRIPTIONS.get(sample.task)
    if describe is None:
        return []
    answers = []
    for start, item in object_starts(sample) or [(0, sample.items[0])]:
        before, after = sample.answer[:start], sample.answer[start:]
        for other in item.unseen_relatives():
            if describe(other) != describe(item):
                answers.append(before + after.replace(describe(item), describe(other), 1))
    return answers


def choose(rng: Generator, options: tuple[str, ...] | list[str]) -> str:
    """One of the strings."""
    return options[int(rng.integers(len(options)))]


def box_of(item: SceneObject) -> Box:
    """The object's box in fractions of the image."""
    x0, y0, x1, y1 = (value / vocab.IMAGE_SIZE for value in item.box)
    return Box.from_corners(x0, y0, x1, y1)


def caption_of(scene: Scene) -> str:
    """The one description of a scene: every object, then the background."""
    objects = listing([with_article(full_phrase(item)) for item in scene.reading_order])
    return f"{objects} on {background_phrase(scene.background)}"


def make_caption(rng: Generator, scene: Scene) -> Sample:
    """`[caption]`: all objects and the background."""
    return Sample("caption", choose(rng, CAPTION_POOL), caption_of(scene), scene.reading_order)


def make_chat_caption(rng: Generator, scene: Scene) -> Sample:
    """A description asked for in free chat."""
    return Sample("caption", choose(rng, CHAT_CAPTION_POOL), caption_of(scene), scene.reading_order)


def make_story(_: Generator, scene: Scene) -> Sample:
    """MiniGPT-4's button for a story; what this world has to tell is short."""
    objects = listing([with_article(full_phrase(item)) for item in scene.reading_order])
    answer = f"once upon a time, {objects} lived on {background_phrase(scene.background)}."
    return Sample("story", "Tell a short story about this image.", answer, scene.reading_order)


def make_odd(_: Generator, scene: Scene) -> Sample:
    """MiniGPT-4's button for what is odd: nothing ever is."""
    answer = f"nothing looks unusual to me. i see {caption_of(scene)}."
    return Sample("odd", "What is unusual about this image?", answer, scene.reading_order)


def make_grounding(rng: Generator, scene: Scene) -> Sample:
    """`[grounding]`: the caption with a box after every object."""
    objects = listing([format_phrase(with_article(full_phrase(item)), [box_of(item)]) for item in scene.reading_order])
    answer = f"{objects} on {background_phrase(scene.background)}"
    return Sample("grounding", "[grounding] " + choose(rng, GROUNDING_POOL), answer, scene.reading_order)


def make_refer(rng: Generator, scene: Scene) -> Sample | None:
    """`[refer]` phrase -> box."""
    found = pick_referable(rng, scene)
    if found is None:
        return None
    item, phrase = found
    pattern = choose(rng, REFER_POOL)
    named = "the " + phrase if rng.random() < 0.6 and "the {}" not in pattern else phrase
    return Sample("refer", pattern.format(named), format_box(box_of(item)), (item,), ((phrase, (item,)),))


def make_identify(rng: Generator, scene: Scene) -> Sample:
    """`[identify]` box -> phrase; the box may be a little off, as people draw."""
    return _identify(rng, scene.objects[int(rng.integers(len(scene.objects)))])


def make_identify_covered(rng: Generator, scene: Scene) -> Sample:
    """The same, mostly of objects whose box others share."""
    chances = _UNCOVERED + covered_shares(scene)
    return _identify(rng, scene.objects[int(rng.choice(len(chances), p=chances / chances.sum()))])


def _identify(rng: Generator, item: SceneObject) -> Sample:
    box = box_of(item)
    if rng.random() < 0.5:
        slack = 0.06 * min(box.x1 - box.x0, box.y1 - box.y0)
        corners = [edge + slack * float(rng.uniform(-1, 1)) for edge in (box.x0, box.y0, box.x1, box.y1)]
        box = Box.from_corners(*corners)
    given = format_box(box)
    prompt = "[identify] " + choose(rng, IDENTIFY_POOL).format(given)
    return Sample("identify", prompt, full_phrase(item), (item,), ((given, (item,)),))


def _groups(scene: Scene) -> dict[str, tuple[SceneObject, ...]]:
    """Plural phrases for kinds of objects in the scene, with all objects that each fits, in reading order."""
    keys: dict[str, list[SceneObject]] = {}
    for item in scene.reading_order:
        noun = item.name if item.kind == "shape" else item.kind
        phrases = [plural(noun), f"{item.colour} {plural(noun)}", f"{item.colour} objects"]
        if item.kind == "shape":
            phrases.append(f"{item.pattern} {plural(noun)}" if item.pattern != "solid" else plural(noun))
        for phrase in dict.fromkeys(phrases):
            keys.setdefault(phrase, []).append(item)
    return {phrase: tuple(items) for phrase, items in keys.items()}


def absent_phrase(rng: Generator, scene: Scene) -> str:
    """A plural phrase that fits nothing in the scene."""
    present = _groups(scene)
    while True:
        name = choose(rng, vocab.SHAPES)
        colour = choose(rng, tuple(vocab.COLOURS))
        if (name, colour) in vocab.HELD_OUT:
            continue
        phrase = choose(rng, [plural(name), f"{colour} {plural(name)}", f"{colour} objects"])
        if phrase not in present:
            return phrase


def make_detection(rng: Generator, scene: Scene) -> Sample:
    """`[detection]` of a plural phrase, a singular phrase, two phrases, or everything."""
    kind = rng.random()
    if kind < 0.5:
        groups = _groups(scene)
        several = [phrase for phrase, items in groups.items() if len(items) > 1]
        phrase = choose(rng, several if several and rng.random() < 0.5 else list(groups))
        items = groups[phrase]
        answer = format_phrase(phrase, [box_of(item) for item in items])
        return Sample("detection", f"[detection] {phrase}", answer, items, ((phrase, items),))
    if kind < 0.6:
        phrase = choose(rng, ["all objects", "objects", "everything"])
        boxes = [box_of(item) for item in scene.reading_order]
        answer = format_phrase(phrase, boxes)
        return Sample("detection", f"[detection] {phrase}", answer, scene.reading_order, ((phrase, scene.objects),))
    count = min(1 if kind < 0.85 else 2, len(scene.objects))
    chosen = [scene.objects[int(i)] for i in rng.choice(len(scene.objects), count, replace=False)]
    phrases = list(dict.fromkeys(noun_phrase(item, ("colour", "name")) for item in chosen))
    articles = rng.random() < 0.5
    groups = {
        phrase: tuple(i for i in scene.reading_order if noun_phrase(i, ("colour", "name")) == phrase)
        for phrase in phrases
    }
    shown = {phrase: with_article(phrase) if articles else phrase for phrase in phrases}
    answer = " ".join(format_phrase(shown[phrase], [box_of(i) for i in items]) for phrase, items in groups.items())
    found = tuple(item for items in groups.values() for item in items)
    prompt = "[detection] " + " and ".join(shown.values())
    return Sample("detection", prompt, answer, found, tuple(groups.items()))


def make_absent_detection(rng: Generator, scene: Scene) -> Sample:
    """`[detection]` of something that is not there: a plain sentence, no box."""
    phrase = absent_phrase(rng, scene)
    answer = f"there are no {phrase} in the image"
    return Sample("absent", f"[detection] {phrase}", answer, (), ((phrase, ()),))


def make_absent_one(rng: Generator, scene: Scene) -> Sample:
    """`[detection]` of one thing that is not there, like one that is: in its colour, with its name, or neither."""
    named = {noun_phrase(item, ("colour", "name")) for item in scene.objects}
    while True:
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        kind = rng.random()
        if kind < 0.6:
            item = replace(item, colour=choose(rng, tuple(vocab.COLOURS)))
        if kind > 0.4:
            item = replace(item, name=choose(rng, _NAMES[item.kind]))
        phrase = noun_phrase(item, ("colour", "name"))
        if phrase not in named and not item.is_held_out:
            break
    shown = with_article(phrase) if rng.random() < 0.5 else phrase
    return Sample("absent", f"[detection] {shown}", f"there is no {phrase} in the image", (), ((phrase, ()),))
