"""Reading an upright page: its lines with their boxes and confidences."""

from __future__ import annotations

from dataclasses import replace

from definitions.documents.geometry import height
from definitions.documents.load import decode, thumbnail
from definitions.documents.model import array, engine
from definitions.documents.values import Line, Page


def read_lines(page: Page) -> Page:
    """All lines of the upright picture in reading order; the picture itself is dropped, a thumbnail stays."""
    image = decode(page)
    found = engine()(array(image), use_det=True, use_cls=False, use_rec=True)
    lines: list[Line] = []
    if getattr(found, "txts", None) is not None and found.boxes is not None:
        for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
            corners = tuple((round(float(x), 1), round(float(y), 1)) for x, y in box)
            lines.append(Line(str(text), round(float(score), 4), corners))  # pyright: ignore[reportArgumentType]
    return replace(page, image=b"", thumbnail=thumbnail(image), lines=tuple(_reading_order(lines)))


def _reading_order(lines: list[Line]) -> list[Line]:
    """Top to bottom; lines whose middles are within half a height of each other form a row, read left to right."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=_middle_y):
        if rows and _middle_y(line) - _middle_y(rows[-1][0]) < 0.5 * height(line.box):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0][0])]


def _middle_y(line: Line) -> float:
    return sum(y for _, y in line.box) / 4
