"""What a procedural scene can contain: the closed world that the tiny checkpoints know."""

IMAGE_SIZE = 144
"""Side of a scene in pixels at scale 1, the input resolution of the tiny vision towers."""

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "heart", "moon", "arrow")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38),
    "orange": (250, 140, 22),
    "yellow": (245, 222, 40),
    "green": (34, 160, 60),
    "cyan": (40, 210, 222),
    "blue": (40, 80, 225),
    "purple": (130, 50, 190),
    "pink": (246, 130, 192),
}

SIZES: dict[str, tuple[int, int]] = {"small": (20, 24), "medium": (30, 35), "large": (43, 50)}
"""Longest side of a shape or the height of a digit, in pixels at scale 1 (first and last value)."""

PATTERNS = ("solid", "striped", "dotted", "outlined")
"""Fill of a shape. Small shapes, digits and words are always solid: a pattern would not be visible."""

DIGITS = tuple("0123456789")

WORDS = (
    *("cat", "dog", "sun", "bus", "map", "key", "cup", "hat", "fox", "jam", "pen", "zoo"),
    *("fish", "bird", "tree", "book", "door", "milk", "lamp", "ship", "rain", "gold", "wolf", "cake"),
)
"""Words that can be written in a scene. They are drawn in capitals and talked about in lower case."""

WORD_HEIGHTS = (14, 18)
"""Height of the capital letters of a word in pixels at scale 1 (first and last value)."""

BACKGROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (236, 236, 236),
    "gray": (136, 138, 142),
    "black": (28, 28, 30),
    "brown": (112, 76, 46),
}

BACKGROUND_TEXTURES = ("plain", "gradient", "striped", "checked", "noisy")

MAX_OBJECTS = 8

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("circle", "green"),
        ("square", "purple"),
        ("triangle", "cyan"),
        ("star", "red"),
        ("heart", "blue"),
        ("cross", "yellow"),
        ("ring", "orange"),
        ("moon", "pink"),
    }
)
"""(shape, colour) pairs that no training scene contains. Evaluation measures them separately."""
