"""Short questions about scenes (`[vqa]`), and how prompts vary."""

from __future__ import annotations

from dataclasses import replace

from numpy.random import Generator

from training.scenes import world as vocab
from training.scenes.phrases import noun_phrase, pick_referable, plural, unique_phrases, with_article
from training.scenes.samples import (
    VQA_LONG_FORM,
    Maker,
    Sample,
    absent_phrase,
    choose,
    make_absent_detection,
    make_absent_one,
    make_caption,
    make_chat_caption,
    make_detection,
    make_grounding,
    make_identify,
    make_identify_covered,
    make_odd,
    make_refer,
    make_story,
)
from training.scenes.scene import Scene, SceneObject

SIDES = ("left", "right", "above", "below")
_SIDE_PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def make_count(rng: Generator, scene: Scene) -> Sample:
    """How many objects, objects of a colour, shapes of a kind, …; 0 is possible."""
    kind = rng.random()
    if kind < 0.4:
        phrase, items = "objects", scene.objects
    elif kind < 0.48:
        phrase = absent_phrase(rng, scene)
        items = ()
    else:
        target = scene.objects[int(rng.integers(len(scene.objects)))]
        if kind < 0.72:
            phrase = f"{target.colour} objects"
            items = tuple(item for item in scene.objects if item.colour == target.colour)
        else:
            noun = target.name if target.kind == "shape" else target.kind
            phrase = plural(noun)
            items = tuple(i for i in scene.objects if i.kind == target.kind and noun in (i.name, i.kind))
    question = choose(
        rng,
        [f"how many {phrase} are there?", f"how many {phrase} are in the image?", f"how many {phrase} do you see?"],
    )
    return Sample("count", question, str(len(items)), items, ((phrase, items),))


def make_colour(rng: Generator, scene: Scene) -> Sample | None:
    """The colour of an object that a phrase without its colour fits alone."""
    item, phrase = _unique_without(rng, scene, "colour", (("name",), ("size", "name"), ("pattern", "name")))
    if item is None:
        return None
    word = choose(rng, ["color", "color", "colour"])
    question = choose(rng, [f"what {word} is the {phrase}?", f"what is the {word} of the {phrase}?"])
    return Sample("colour", question, item.colour, (item,), ((phrase, (item,)),))


def make_shape(rng: Generator, scene: Scene) -> Sample | None:
    """The shape of an object that its other attributes single out."""
    shapes = [item for item in scene.objects if item.kind == "shape"]
    options = []
    for item in shapes:
        for attributes in (("colour",), ("size", "colour"), ("pattern", "colour")):
            phrase = noun_phrase(replace(item, name="object"), attributes)
            if (
                sum(
                    noun_phrase(replace(other, name="object", kind="shape"), attributes) == phrase
                    for other in scene.objects
                )
                == 1
            ):
                options.append((item, phrase))
    if not options:
        return None
    item, phrase = options[int(rng.integers(len(options)))]
    question = choose(
        rng, [f"what shape is the {phrase}?", f"what is the shape of the {phrase}?", f"what is the {phrase}?"]
    )
    return Sample("shape", question, item.name, (item,), ((phrase, (item,)),))


def make_pattern(rng: Generator, scene: Scene) -> Sample | None:
    """The fill pattern of a medium or large shape."""
    item, phrase = _unique_without(rng, scene, "pattern", (("colour", "name"), ("name",)))
    if item is None or item.kind != "shape":
        return None
    question = choose(rng, [f"what pattern does the {phrase} have?", f"what is the pattern of the {phrase}?"])
    return Sample("pattern", question, item.pattern, (item,), ((phrase, (item,)),))


def make_size(rng: Generator, scene: Scene) -> Sample | None:
    """small, medium or large."""
    item, phrase = _unique_without(rng, scene, "size", (("colour", "name"), ("name",)))
    if item is None or item.kind == "word":
        return None
    question = choose(rng, [f"what size is the {phrase}?", f"how big is the {phrase}?"])
    return Sample("size", question, item.size, (item,), ((phrase, (item,)),))


def make_relation(rng: Generator, scene: Scene) -> Sample | None:
    """Which side of one object another is on, as a side or as yes/no; only clear cases are asked."""
    pairs = [
        (a, b, side)
        for a in scene.objects
        for b in scene.objects
        if a is not b and (side := clear_side(a, b)) is not None
    ]
    for index in rng.permutation(len(pairs))[:6]:
        a, b, side = pairs[int(index)]
        first, second = _phrase_for(rng, scene, a), _phrase_for(rng, scene, b)
        if first is None or second is None:
            continue
        mentions = ((first, (a,)), (second, (b,)))
        if rng.random() < 0.6:
            question = choose(
                rng,
                [
                    f"where is the {first} relative to the {second}?",
                    f"on which side of the {second} is the {first}?",
                    f"where is the {first} compared to the {second}?",
                ],
            )
            return Sample("relation", question, side, (a, b), mentions)
        opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[side]
        is_true = rng.random() < 0.5
        question = f"is the {first} {_SIDE_PHRASES[side if is_true else opposite]} the {second}?"
        return Sample("relation", question, "yes" if is_true else "no", (a, b), mentions)
    return None


def clear_side(a: SceneObject, b: SceneObject) -> str | None:
    """On which side of `b` the centre of `a` lies, if one direction clearly dominates."""
    dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    if max(abs(dx), abs(dy)) < 0.15 * vocab.IMAGE_SIZE or min(abs(dx), abs(dy)) > 0.6 * max(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def make_existence(rng: Generator, scene: Scene) -> Sample:
    """Is there a …, are there any …; half of the answers are no."""
    if rng.random() < 0.5:
        phrase = absent_phrase(rng, scene)
        if rng.random() < 0.5:
            return Sample("existence", f"are there any {phrase}?", "no", (), ((phrase, ()),))
        singular = phrase[:-2] if phrase.endswith("crosses") else phrase[:-1]
        return Sample("existence", f"is there {with_article(singular)}?", "no", (), ((singular, ()),))
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    noun = item.name if item.kind == "shape" else item.kind
    phrase = choose(rng, [noun, f"{item.colour} {noun}", f"{item.colour} object"])
    has_noun, has_colour = phrase.endswith(noun), phrase.startswith(item.colour)
    fitting = tuple(
        other
        for other in scene.objects
        if (not has_noun or noun in (other.name, other.kind)) and (not has_colour or other.colour == item.colour)
    )
    if rng.random() < 0.5:
        several = plural(phrase)
        return Sample("existence", f"are there any {several}?", "yes", (item,), ((several, fitting),))
    return Sample("existence", f"is there {with_article(phrase)}?", "yes", (item,), ((phrase, fitting),))


def make_reading(rng: Generator, scene: Scene) -> Sample | None:
    """Read a digit or a word."""
    texts = [item for item in scene.objects if item.kind != "shape"]
    if not texts:
        return None
    item = texts[int(rng.integers(len(texts)))]
    alone = sum(other.kind == item.kind for other in texts) == 1
    same_colour = sum(other.kind == item.kind and other.colour == item.colour for other in texts) == 1
    if not alone and not same_colour:
        return None
    phrase = item.kind if alone and rng.random() < 0.6 else f"{item.colour} {item.kind}"
    questions = [f"what is the {phrase}?", f"what {phrase} is shown?", f"which {phrase} do you see?"]
    if item.kind == "word" and alone:
        questions += ["what does the text say?", "what word is written here?", "read the text"]
    elif alone:
        questions += ["what number is shown?", "what number is this?", "read the number"]
    question = choose(rng, questions)
    named = next(words for words in (phrase, "text", "number", "word") if words in question)
    return Sample("reading", question, item.name, (item,), ((named, (item,)),))


def make_position(rng: Generator, scene: Scene) -> Sample | None:
    """In which part of the image an object is, in words; asked only well inside a part."""
    found = pick_referable(rng, scene)
    if found is None:
        return None
    item, phrase = found
    parts = []
    for value, names in zip(
        reversed(item.centre), (("top", "middle", "bottom"), ("left", "center", "right")), strict=True
    ):
        thirds = value / vocab.IMAGE_SIZE * 3
        if min(abs(thirds - 1), abs(thirds - 2)) < 0.15:
            return None
        parts.append(names[min(int(thirds), 2)])
    return Sample("position", f"where is the {phrase}?", " ".join(parts), (item,), ((phrase, (item,)),))


def make_background(rng: Generator, scene: Scene) -> Sample:
    """Colour or texture of the background."""
    if rng.random() < 0.5:
        word = choose(rng, ["color", "color", "colour"])
        question = choose(rng, [f"what {word} is the background?", f"what is the {word} of the background?"])
        return Sample("background", question, scene.background.colour)
    question = choose(rng, ["what pattern does the background have?", "what texture is the background?"])
    return Sample("background", question, scene.background.texture)


VQA_MAKERS: dict[str, Maker] = {
    "count": make_count,
    "colour": make_colour,
    "shape": make_shape,
    "relation": make_relation,
    "existence": make_existence,
    "reading": make_reading,
    "pattern": make_pattern,
    "size": make_size,
    "position": make_position,
    "background": make_background,
}

MAKERS: dict[str, Maker] = {
    "refer": make_refer,
    "identify": make_identify,
    "grounding": make_grounding,
    "detection": make_detection,
    "absent": make_absent_detection,
    "caption": make_caption,
    "chat_caption": make_chat_caption,
    **VQA_MAKERS,
    "absent_one": make_absent_one,  # at the end: a task's place is part of the seed of the scenes it is evaluated on
}

TRAINING_MAKERS: dict[str, Maker] = {
    **MAKERS,
    "story": make_story,  # for the buttons of families without task identifiers
    "odd": make_odd,
    "identify_covered": make_identify_covered,
}
"""All that a mixture can name; only `MAKERS` is evaluated."""


def vary(rng: Generator, sample: Sample) -> Sample:
    """The prompt as different people would type it: capital letter, long form, no question mark, no identifier."""
    prompt = sample.prompt
    if sample.task in VQA_MAKERS:
        if rng.random() < 0.3:
            prompt = prompt[0].upper() + prompt[1:]
        if rng.random() < 0.15:
            prompt = prompt.rstrip("?.")
        if rng.random() < 0.2:
            prompt = VQA_LONG_FORM.format(prompt)
        if rng.random() < 0.75:
            prompt = "[vqa] " + prompt
    elif sample.task in ("caption", "chat") and not prompt.startswith("[") and rng.random() < 0.4:
        prompt = prompt[0].upper() + prompt[1:].rstrip(".")
    return replace(sample, prompt=prompt)


def _unique_without(
    rng: Generator, scene: Scene, hidden: str, attribute_sets: tuple[tuple[str, ...], ...]
) -> tuple[SceneObject, str] | tuple[None, str]:
    """A random object and a phrase without the attribute `hidden` that fits it alone."""
    for index in rng.permutation(len(scene.objects)):
        item = scene.objects[int(index)]
        if hidden == "pattern" and (item.kind != "shape" or item.size == "small"):
            continue
        if phrases := unique_phrases(scene, item, attribute_sets):
            return item, choose(rng, phrases)
    return None, ""


def _phrase_for(rng: Generator, scene: Scene, item: SceneObject) -> str | None:
    """A phrase of colour and name, or less often of the name, that fits the object alone."""
    phrases = unique_phrases(scene, item, (("colour", "name"), ("name",)))
    return choose(rng, phrases[:1] if rng.random() < 0.7 else phrases) if phrases else None
