"""Setting a page upright, by where its text boxes lie and in which direction they read better."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from definitions.documents.geometry import height, width
from definitions.documents.load import decode, encode_jpeg
from definitions.documents.model import array, engine
from definitions.documents.values import Page

DETECT_SIDE = 960
PROBE_LINES = 6


def set_upright(page: Page) -> Page:
    """Turn the picture so that its text runs from left to right.

    The shape of the text boxes says whether lines lie or stand; a few of the longest are then read in both directions,
    and the one that reads better is up.
    """
    image = decode(page)
    turn = find_turn(image)
    if turn == 0:
        return page
    upright = image.rotate(turn, expand=True)
    return replace(page, image=encode_jpeg(upright, 92), width=upright.width, height=upright.height, turn=turn)


def find_turn(image: Any) -> int:
    """Degrees counter-clockwise that set `image` upright: 0, 90, 180 or 270. 0 where there is no text to tell by."""
    small = image.copy()
    small.thumbnail((DETECT_SIDE, DETECT_SIDE))
    found = engine()(array(small), use_det=True, use_cls=False, use_rec=False)
    if found.boxes is None or len(found.boxes) == 0:
        return 0
    scale = image.width / small.width
    boxes = [[(float(x) * scale, float(y) * scale) for x, y in box] for box in found.boxes]
    standing = sum(height(box) ** 2 for box in boxes if height(box) > width(box))
    lying = sum(width(box) ** 2 for box in boxes if width(box) >= height(box))
    turns = (90, 270) if standing > lying else (0, 180)
    longest = sorted(boxes, key=lambda box: -max(width(box), height(box)))[:PROBE_LINES]
    crops = [_crop(image, box) for box in longest]
    scores = {turn: _legibility([crop.rotate(turn, expand=True) for crop in crops]) for turn in turns}
    return max(turns, key=lambda turn: scores[turn])


def _crop(image: Any, box: list[tuple[float, float]]) -> Any:
    xs, ys = [x for x, _ in box], [y for _, y in box]
    return image.crop((int(min(xs)), int(min(ys)), math.ceil(max(xs)), math.ceil(max(ys))))


def _legibility(crops: list[Any]) -> float:
    """Confidence over the letters read: upside-down text is read as fewer, less certain letters."""
    total = 0.0
    for crop in crops:
        found = engine()(array(crop), use_det=False, use_cls=False, use_rec=True)
        read: list[tuple[str, float]] = list(zip(found.txts or (), found.scores or (), strict=False))
        for text, score in read:
            letters = sum(character.isalpha() for character in text)
            total += float(score) ** 4 * letters
    return total
