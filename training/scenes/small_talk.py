"""Greetings and the like, which need no image."""

from __future__ import annotations

from numpy.random import Generator

from training.scenes.samples import Sample, choose

SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("hello", "hi", "hey", "good morning", "hello there"),
        "hello! ask me about the shapes, digits and words in a picture.",
    ),
    (
        ("what can you do?", "help", "how can you help me?", "what can i ask you?"),
        "i can describe a scene, count, name colors and shapes, read digits and words, and find objects.",
    ),
    (
        ("who are you?", "what are you?", "what is your name?"),
        "i am a tiny model that knows scenes of colored shapes, digits and words.",
    ),
    (("thank you", "thanks", "great", "well done"), "you are welcome!"),
    (("bye", "goodbye", "see you"), "goodbye!"),
)


def small_talk(rng: Generator) -> Sample:
    """A greeting or the like; it needs no image."""
    prompts, answer = SMALL_TALK[int(rng.integers(len(SMALL_TALK)))]
    return Sample("chat", choose(rng, prompts), answer)
