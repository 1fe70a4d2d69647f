"""How the public benchmarks score an answer. Pure functions; every score lies in 0…1.

VQA accuracy follows the official evaluation of VQAv2 (Antol et al., `vqaEval.py`), OK-VQA the changed copy of it in
MiniGPT-v2, the others MiniGPT-v2's scripts (`eval_scripts/eval_vqa.py`, `eval_ref.py`) and POPE's (`evaluate.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Corners = tuple[float, float, float, float]

_BOX_AT_START = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _spellings(word: str) -> list[str]:
    """A contraction with one of its apostrophes left out."""
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


# The last one is the wrong way round in the official list.
_RESTORED: Mapping[str, str] = {
    **{spelling: word for word in _CONTRACTIONS.split() for spelling in _spellings(word)},
    "somebody'd": "somebodyd",
}


def without_punctuation(text: str) -> str:
    """The official rule: a mark beside a space, or any in a text with "1,000", goes; other marks become spaces."""
    has_thousands = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        if mark in text:
            is_removed = f"{mark} " in text or f" {mark}" in text or has_thousands
            cleaned = cleaned.replace(mark, "" if is_removed else " ")
    return re.sub(r"\.(?!\d)", "", cleaned)


def without_articles(text: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes put back into contractions."""
    words = [str(_DIGITS.index(word)) if word in _DIGITS else word for word in text.lower().split()]
    words = ["0" if word == "none" else word for word in words if word not in _ARTICLES]
    return " ".join(_RESTORED.get(word, word) for word in words)


def normalised(answer: str) -> str:
    """An answer as VQA accuracy compares it."""
    return without_articles(without_punctuation(answer))


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQAv2's soft accuracy: over all people but one in turn, min(1, how many said it / 3).

    People's answers lose their punctuation where they differ from each other; the model's is always normalised.
    """
    answer = normalised(_on_one_line(answer))
    if len(set(references)) > 1:
        references = [without_punctuation(reference) for reference in references]
    return _soft_accuracy(answer, references)


def okvqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """The same as MiniGPT-v2 changed it: all are normalised or, where people agree, none; case does not count."""
    answer = _on_one_line(answer)
    if len(set(references)) > 1:
        answer, references = normalised(answer), [normalised(reference) for reference in references]
    return _soft_accuracy(answer.lower(), [reference.lower() for reference in references])


def _on_one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _soft_accuracy(answer: str, people: Sequence[str]) -> float:
    count = people.count(answer)
    scores = [min(1.0, (count - (person == answer)) / 3) for person in people]
    return sum(scores) / len(scores)


def vizwiz_accuracy(answer: str, references: Sequence[str]) -> float:
    """min(1, how many people said it / 3), case aside."""
    return min(1.0, sum(answer.strip().lower() == reference.lower() for reference in references) / 3)


def exact_match(answer: str, reference: str) -> float:
    """Equal, case and the space around the answer aside."""
    return float(answer.strip().lower() == reference.lower())


def refer_hit(answer: str, box: Corners, size: tuple[float, float]) -> float | None:
    """Whether an answer's box overlaps `box` (x0, y0, x1, y1 in pixels of `size`) by more than half; None: no box."""
    match = _BOX_AT_START.match(answer.replace("<unk>", "").replace(" ", "").strip())
    if match is None:
        return None
    width, height = size
    x0, y0, x1, y1 = (int(number) / 100 for number in match.groups())
    return float(pixel_iou((x0 * width, y0 * height, x1 * width, y1 * height), box) > 0.5)


def pixel_iou(a: Corners, b: Corners) -> float:
    """Overlap of two boxes in pixels, both edges counted in (+1), as MiniGPT-v2's `computeIoU`."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = sum((x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in (a, b))
    return width * height / (areas - width * height)


@dataclass(frozen=True)
class YesNo:
    """POPE's figures; "yes" is the positive answer."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def says_yes(answer: str) -> bool:
    """POPE's reading: an answer whose first sentence has "no" or "not" is a no, everything else a yes."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not any(word in ("No", "no", "not") for word in words)


def yes_no_figures(said: Sequence[bool], expected: Sequence[bool]) -> YesNo:
    """Accuracy, precision, recall, F1 and the share of yes."""
    pairs = list(zip(said, expected, strict=True))
    right_yes = sum(ours and theirs for ours, theirs in pairs)
    precision, recall = right_yes / max(1, sum(said)), right_yes / max(1, sum(expected))
    return YesNo(
        accuracy=sum(ours == theirs for ours, theirs in pairs) / max(1, len(pairs)),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if right_yes else 0.0,
        yes_ratio=sum(said) / max(1, len(pairs)),
    )
