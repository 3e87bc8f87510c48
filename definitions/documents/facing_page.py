"""Leaving out the facing page, by the geometry of the text boxes."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from definitions.documents.geometry import width
from definitions.documents.values import Line, Page


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


def _aside(column: list[Line], main: list[Line], across: int) -> bool:
    """A few lines at the picture's side, further from a page of running text than a gutter or a note in the margin is.

    Figures stay: far to the side they are a table's. So do the columns of a form, where the widest is narrow itself.
    """
    (left, right), (start, end) = _extent(main), _extent(column)
    far = max(start - right, left - end) > 0.3 * (right - left)
    outer = abs((start + end) / 2 / across - 0.5) > 0.3
    few = len(column) < 0.25 * len(main)
    lettered = any(character.isalpha() for line in column for character in line.text)
    return far and outer and few and lettered and right - left > 0.3 * across


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
    longest = sorted(column, key=lambda line: -width(line.box))[: max(3, len(column) // 2)]
    return median(_tilt(line) for line in longest)


def _tilt(line: Line) -> float:
    """Degrees by which the line rises or falls."""
    return math.degrees(math.atan2(line.box[1][1] - line.box[0][1], line.box[1][0] - line.box[0][0]))
