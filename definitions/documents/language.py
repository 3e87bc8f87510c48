"""Which languages a page is written in (lingua), sentence by sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from definitions.documents.values import Page

LANGUAGES = ("ENGLISH", "GERMAN", "FRENCH", "ITALIAN", "SPANISH", "PORTUGUESE", "DUTCH", "LATIN")
MIN_SHARE = 0.1
ENOUGH, PLENTY = 20, 200
"""Letters that a passage has at least, to be judged by; and at most, where no full stop ends it (a table, a list)."""


def name_languages(page: Page) -> Page:
    """ISO 639-1 codes with their share of the page's letters, largest first; shares below a tenth are dropped.

    Sentences are judged, not lines: a line may end one language and begin another.
    """
    shares: dict[str, int] = {}
    for text in _passages([line.text for line in page.lines]):
        found = _detector().detect_language_of(text)
        if found is not None:
            code = found.iso_code_639_1.name.lower()
            shares[code] = shares.get(code, 0) + _letters(text)
    total = sum(shares.values())
    languages = [(code, round(length / total, 3)) for code, length in shares.items() if length / total >= MIN_SHARE]
    return replace(page, languages=tuple(sorted(languages, key=lambda item: -item[1])))


def _passages(lines: Sequence[str]) -> Iterator[str]:
    """Sentences, short ones together with the next; a long stretch without a full stop is cut at a line's end."""
    passage = ""
    for line in lines:
        for piece in re.split(r"(?<=[.!?])\s+", line):
            passage = f"{passage} {piece}".strip()
            if _letters(passage) >= ENOUGH and passage[-1:] in ".!?":
                yield passage
                passage = ""
        if _letters(passage) >= PLENTY:
            yield passage
            passage = ""
    if _letters(passage) >= 3:
        yield passage


def _letters(text: str) -> int:
    return sum(character.isalpha() for character in text)


@lru_cache(maxsize=1)
def _detector() -> Any:
    from lingua import Language, LanguageDetectorBuilder

    languages = [getattr(Language, name) for name in LANGUAGES]
    return LanguageDetectorBuilder.from_languages(*languages).with_low_accuracy_mode().build()
