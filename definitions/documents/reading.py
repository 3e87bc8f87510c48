"""Reading a page: set it upright, read its lines, leave out the facing page. RapidOCR (PP-OCRv6), one thread."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from statistics import median
from typing import Any

from definitions.documents.load import decode, encode_jpeg, thumbnail
from definitions.documents.values import Line, Page

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
    found = _engine()(_array(small), use_det=True, use_cls=False, use_rec=False)
    if found.boxes is None or len(found.boxes) == 0:
        return 0
    scale = image.width / small.width
    boxes = [[(float(x) * scale, float(y) * scale) for x, y in box] for box in found.boxes]
    standing = sum(_height(box) ** 2 for box in boxes if _height(box) > _width(box))
    lying = sum(_width(box) ** 2 for box in boxes if _width(box) >= _height(box))
    turns = (90, 270) if standing > lying else (0, 180)
    longest = sorted(boxes, key=lambda box: -max(_width(box), _height(box)))[:PROBE_LINES]
    crops = [_crop(image, box) for box in longest]
    scores = {turn: _legibility([crop.rotate(turn, expand=True) for crop in crops]) for turn in turns}
    return max(turns, key=lambda turn: scores[turn])


def read_lines(page: Page) -> Page:
    """All lines of the upright picture in reading order; the picture itself is dropped, a thumbnail stays."""
    image = decode(page)
    found = _engine()(_array(image), use_det=True, use_cls=False, use_rec=True)
    lines: list[Line] = []
    if getattr(found, "txts", None) is not None and found.boxes is not None:
        for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
            corners = tuple((round(float(x), 1), round(float(y), 1)) for x, y in box)
            lines.append(Line(str(text), round(float(score), 4), corners))  # pyright: ignore[reportArgumentType]
    return replace(page, image=b"", thumbnail=thumbnail(image), lines=tuple(_reading_order(lines)))


def trim_facing_page(page: Page) -> Page:
    """Leave out lines of a facing page that is in view.

    Columns are runs of lines whose horizontal extents overlap. The one with the most text is the page. Another column
    is a facing page when its lines are tilted against the page's (it bends away from the camera), when the picture's
    edge cuts it, or when little of it is in view far beyond two margins; an upright second column inside the picture
    belongs to the page.
    """
    columns = _columns(page.lines)
    if len(columns) < 2:
        return page
    main = max(columns, key=lambda column: sum(len(line.text) for line in column))
    angle = _angle(main)
    left, right = _extent(main)
    kept, trimmed = [], []
    for column in columns:
        start, end = _extent(column)
        beside = column is not main and (start > right - 0.1 * (right - left) or end < left + 0.1 * (right - left))
        # Line by line: on a page that bends away some lines lean up and others down, and their mean says nothing.
        tilted = median(abs(_tilt(line) - angle) for line in column) > 2.0
        cut = end > 0.985 * page.width or start < 0.015 * page.width
        (trimmed if beside and (tilted or cut or _aside(column, main, page.width)) else kept).extend(column)
    order = {id(line): number for number, line in enumerate(page.lines)}
    kept.sort(key=lambda line: order[id(line)])
    trimmed.sort(key=lambda line: order[id(line)])
    return replace(page, lines=tuple(kept), trimmed=tuple(trimmed))


def _aside(column: list[Line], main: list[Line], width: int) -> bool:
    """A few lines at the picture's side, further from a page of running text than a gutter or a note in the margin is.

    Figures stay: far to the side they are a table's. So do the columns of a form, where the widest is narrow itself.
    """
    (left, right), (start, end) = _extent(main), _extent(column)
    far = max(start - right, left - end) > 0.3 * (right - left)
    outer = abs((start + end) / 2 / width - 0.5) > 0.3
    few = len(column) < 0.25 * len(main)
    lettered = any(character.isalpha() for line in column for character in line.text)
    return far and outer and few and lettered and right - left > 0.3 * width


def warm_up() -> None:
    """Load the models, so that the first page does not pay for it."""
    from PIL import Image

    _engine()(_array(Image.new("RGB", (320, 64), "white")), use_det=True, use_cls=False, use_rec=True)


@lru_cache(maxsize=1)
def _engine() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def _array(image: Any) -> Any:
    import numpy

    return numpy.ascontiguousarray(numpy.asarray(image)[:, :, ::-1])


def _crop(image: Any, box: list[tuple[float, float]]) -> Any:
    xs, ys = [x for x, _ in box], [y for _, y in box]
    return image.crop((int(min(xs)), int(min(ys)), math.ceil(max(xs)), math.ceil(max(ys))))


def _legibility(crops: list[Any]) -> float:
    """Confidence over the letters read: upside-down text is read as fewer, less certain letters."""
    total = 0.0
    for crop in crops:
        found = _engine()(_array(crop), use_det=False, use_cls=False, use_rec=True)
        read: list[tuple[str, float]] = list(zip(found.txts or (), found.scores or (), strict=False))
        for text, score in read:
            letters = sum(character.isalpha() for character in text)
            total += float(score) ** 4 * letters
    return total


def _reading_order(lines: list[Line]) -> list[Line]:
    """Top to bottom; lines whose middles are within half a height of each other form a row, read left to right."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=_middle_y):
        if rows and _middle_y(line) - _middle_y(rows[-1][0]) < 0.5 * _height(line.box):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0][0])]


def _columns(lines: tuple[Line, ...]) -> list[list[Line]]:
    """Group lines into columns by the overlap of their horizontal extents, wide lines first."""
    columns: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: -(_span(line)[1] - _span(line)[0])):
        start, end = _span(line)
        for column in columns:
            left, right = _extent(column)
            if min(end, right) - max(start, left) > 0.5 * (end - start):
                column.append(line)
                break
        else:
            columns.append([line])
    return columns


def _span(line: Line) -> tuple[float, float]:
    xs = [x for x, _ in line.box]
    return min(xs), max(xs)


def _extent(column: list[Line]) -> tuple[float, float]:
    return min(_span(line)[0] for line in column), max(_span(line)[1] for line in column)


def _angle(column: list[Line]) -> float:
    """Median tilt of the longer lines, in degrees."""
    longest = sorted(column, key=lambda line: -_width(line.box))[: max(3, len(column) // 2)]
    return median(_tilt(line) for line in longest)


def _tilt(line: Line) -> float:
    """Degrees by which the line rises or falls."""
    return math.degrees(math.atan2(line.box[1][1] - line.box[0][1], line.box[1][0] - line.box[0][0]))


def _middle_y(line: Line) -> float:
    return sum(y for _, y in line.box) / 4


def _width(box: Any) -> float:
    return math.dist(box[0], box[1])


def _height(box: Any) -> float:
    return math.dist(box[0], box[3])
