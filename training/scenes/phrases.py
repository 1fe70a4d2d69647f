"""How objects are talked about: noun phrases, and which of them fit only one object of a scene."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from training.scenes.scene import Background, Scene, SceneObject

_ATTRIBUTE_SETS: tuple[tuple[str, ...], ...] = (
    ("name",),
    ("colour", "name"),
    ("size", "name"),
    ("pattern", "name"),
    ("pattern", "colour", "name"),
    ("size", "colour", "name"),
    ("size", "pattern", "colour", "name"),
)


def noun_phrase(item: SceneObject, attributes: Sequence[str]) -> str:
    """For instance "large striped red circle", "blue digit 7", "green word cat"; always in this order."""
    words = []
    if "size" in attributes and item.kind != "word":
        words.append(item.size)
    if "pattern" in attributes and item.kind == "shape":
        words.append(item.pattern)
    if "colour" in attributes:
        words.append(item.colour)
    words.append(item.name if item.kind == "shape" else f"{item.kind} {item.name}")
    return " ".join(words)


def full_phrase(item: SceneObject) -> str:
    """The phrase that every description uses: pattern unless solid, colour, name."""
    attributes = ["colour"] + (["pattern"] if item.pattern != "solid" else [])
    return noun_phrase(item, attributes)


def unique_phrases(
    scene: Scene, item: SceneObject, attribute_sets: Sequence[Sequence[str]] = _ATTRIBUTE_SETS
) -> list[str]:
    """Phrases that fit `item` and no other object of the scene, shortest first."""
    phrases: list[str] = []
    for attributes in attribute_sets:
        phrase = noun_phrase(item, attributes)
        others = [noun_phrase(other, attributes) for other in scene.objects if other is not item]
        if phrase not in others and phrase not in phrases:
            phrases.append(phrase)
    return phrases


def pick_referable(rng: Generator, scene: Scene) -> tuple[SceneObject, str] | None:
    """A random object with a random phrase that fits only it, colour and name preferred; None if there is none."""
    for index in rng.permutation(len(scene.objects)):
        item = scene.objects[int(index)]
        phrases = unique_phrases(scene, item)
        if phrases:
            preferred = noun_phrase(item, ("colour", "name"))
            if preferred in phrases and rng.random() < 0.5:
                return item, preferred
            return item, phrases[int(rng.integers(len(phrases)))]
    return None


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" in front."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def background_phrase(background: Background) -> str:
    """For instance "a striped gray background"."""
    return with_article(f"{background.texture} {background.colour} background")


def listing(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def plural(phrase: str) -> str:
    """Plural of a phrase that ends with a shape, "object", "digit" or "word"."""
    return phrase + ("es" if phrase.endswith("cross") else "s")
