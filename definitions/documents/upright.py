"""Setting a page upright, by where its text boxes lie and in which direction they read better."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from definitions.documents.geometry import height, width
from definitions.documents.load import decode, encode_jpeg
from definitions.documents.model import array, engine, finder
from definitions.documents.values import Page

Box = list[tuple[float, float]]

QUICK_SIDE = 500
"""Pixels of the longer side of the middle half of a page, in a quick look: as large as lines of small print need."""
DETECT_SIDE = 960
PROBE_LINES = 6
SURE, TIMES = 10.0, 4.0
"""A quick look decides when one direction reads as ten sure letters or more, and as four times the other's."""


def set_upright(page: Page) -> Page:
    """Turn the picture so that its text runs from left to right."""
    image = decode(page)
    turn = find_turn(image)
    if turn == 0:
        return page
    upright = image.rotate(turn, expand=True)
    return replace(page, image=encode_jpeg(upright, 92), width=upright.width, height=upright.height, turn=turn)


def find_turn(image: Any) -> int:
    """Degrees counter-clockwise that set `image` upright: 0, 90, 180 or 270. 0 where there is no text to tell by.

    Two lines from the middle of the page, read in both directions, decide nearly always, at a third of the cost. Where they
    do not, the text boxes of the whole page say whether lines lie or stand, and six of the longest which way is up.
    """
    turn = _quick_look(image)
    return _thorough_look(image) if turn is None else turn


def _quick_look(image: Any) -> int | None:
    """The turn, or None where the page's middle does not tell for sure."""
    width_, height_ = image.size
    middle = image.crop((width_ // 4, height_ // 4, width_ - width_ // 4, height_ - height_ // 4))
    across = 90 if _lines_stand(middle) else 0
    middle = middle.rotate(across, expand=True) if across else middle
    boxes = _boxes(middle, finder(), QUICK_SIDE)
    if not boxes or _standing(boxes):
        return None
    scores = {0: 0.0, 180: 0.0}
    for count, crop in enumerate(_longest(middle, boxes), start=1):
        for turn in scores:
            scores[turn] += _legibility(crop.rotate(turn, expand=True))
        worse, better = sorted(scores.values())
        if count >= 2 and better >= max(SURE, TIMES * worse):
            return (across + max(scores, key=lambda turn: scores[turn])) % 360
    return None


def _thorough_look(image: Any) -> int:
    boxes = _boxes(image, engine(), DETECT_SIDE)
    if not boxes:
        return 0
    turns = (90, 270) if _standing(boxes) else (0, 180)
    crops = _longest(image, boxes)
    scores = {turn: sum(_legibility(crop.rotate(turn, expand=True)) for crop in crops) for turn in turns}
    return max(turns, key=lambda turn: scores[turn])


def _lines_stand(image: Any) -> bool:
    """By the profile of the ink: across lines it goes up and down, along them it does not. A guess, to be confirmed."""
    import numpy

    grey = image.convert("L")
    grey.thumbnail((QUICK_SIDE // 2, QUICK_SIDE // 2))
    ink = numpy.asarray(grey, dtype="float32")
    steps = [float((numpy.diff(ink.mean(axis=axis)) ** 2).sum()) / (ink.shape[1 - axis] or 1) for axis in (0, 1)]
    return steps[0] > steps[1]


def _boxes(image: Any, detector: Any, side: int) -> list[Box]:
    """Text boxes in pixels of `image`, found in a picture whose longer side has `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    found = detector(array(small), use_det=True, use_cls=False, use_rec=False)
    scale = image.width / small.width
    return [
        [(float(x) * scale, float(y) * scale) for x, y in box] for box in (() if found.boxes is None else found.boxes)
    ]


def _standing(boxes: list[Box]) -> bool:
    standing = sum(height(box) ** 2 for box in boxes if height(box) > width(box))
    return standing > sum(width(box) ** 2 for box in boxes if width(box) >= height(box))


def _longest(image: Any, boxes: list[Box]) -> list[Any]:
    """The pictures of the longest lines."""
    longest = sorted(boxes, key=lambda box: -max(width(box), height(box)))[:PROBE_LINES]
    return [_crop(image, box) for box in longest]


def _crop(image: Any, box: Box) -> Any:
    xs, ys = [x for x, _ in box], [y for _, y in box]
    return image.crop((int(min(xs)), int(min(ys)), math.ceil(max(xs)), math.ceil(max(ys))))


def _legibility(crop: Any) -> float:
    """Confidence over the letters read: upside-down text is read as fewer, less certain letters."""
    found = engine()(array(crop), use_det=False, use_cls=False, use_rec=True)
    read: list[tuple[str, float]] = list(zip(found.txts or (), found.scores or (), strict=False))
    return sum(float(score) ** 4 * sum(character.isalpha() for character in text) for text, score in read)
