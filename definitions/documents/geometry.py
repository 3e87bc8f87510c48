"""Sizes of text boxes: four corners from the upper left one, clockwise as their text runs."""

from __future__ import annotations

import math
from typing import Any


def width(box: Any) -> float:
    return math.dist(box[0], box[1])


def height(box: Any) -> float:
    return math.dist(box[0], box[3])
