"""Regular expressions of schemas, as far as they can be looked at without risk: others are never run.

Plain ones have no groups, alternatives or look-arounds, and two open-ended repetitions at most: what they cost is bounded, and
they mean the same in ECMA 262 and here for plain ASCII.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_PATTERN = 200
MAX_TEXT = 300
"""Characters of a text that one is tried on."""

_CLASS = r"\[\^?(?:\\[dswDSW.\-\]\[\\/^$*+?(){}|]|[^\\\]\[])+\]"
_ATOM = rf"(?:{_CLASS}|\\[dswDSW]|\\[.\-\]\[\\/^$*+?(){{}}|]|[^\\\[\](){{}}*+?|^$.]|\.)"
_REPEAT = r"(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})?"
_PLAIN = re.compile(rf"\^?(?:{_ATOM}{_REPEAT})*\$?")
_PARTS = re.compile(rf"({_ATOM})({_REPEAT})")
_OPEN = re.compile(r"[*+]|\{\d+,\}")


def matches(pattern: str, text: str) -> bool | None:
    """Does `pattern` occur in `text`? None where that is not looked at."""
    if pattern in ("", ".*"):
        return True
    compiled = _compiled(pattern)
    if compiled is None or len(text) > MAX_TEXT or not text.isascii() or not text.isprintable():
        return None
    return compiled.search(text) is not None


def example(pattern: str) -> str | None:
    """A short text that `pattern` may occur in; None where none is at hand."""
    if _compiled(pattern) is None:
        return None
    pieces = []
    for atom, repeat in _PARTS.findall(pattern.removeprefix("^").removesuffix("$")):
        numbers = re.findall(r"\d+", repeat)
        least = int(numbers[0]) if numbers else 0 if repeat in ("*", "?") else 1
        pieces.append(_letter(atom) * least)
    return "".join(pieces)


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    if len(pattern) > MAX_PATTERN or not pattern.isascii() or not _PLAIN.fullmatch(pattern):
        return None
    repeats = [repeat for _, repeat in _PARTS.findall(pattern)]
    if sum(1 for repeat in repeats if _OPEN.match(repeat)) > 2 or sum(map(_most, repeats)) > 300:
        return None
    ends = pattern.endswith("$") and not pattern.endswith(r"\$")
    try:
        return re.compile(pattern[:-1] + r"\Z" if ends else pattern, re.ASCII)
    except re.error:
        return None


def _most(repeat: str) -> int:
    numbers = re.findall(r"\d+", repeat)
    return int(numbers[-1]) if numbers else 1


def _letter(atom: str) -> str:
    inside = re.compile(atom, re.ASCII)
    return next((letter for letter in "a0A _-./" + "".join(map(chr, range(33, 127))) if inside.fullmatch(letter)), "")
