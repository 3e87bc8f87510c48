"""Which languages a page is written in (lingua), by its lines."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from definitions.documents.values import Page

LANGUAGES = ("ENGLISH", "GERMAN", "FRENCH", "ITALIAN", "SPANISH", "PORTUGUESE", "DUTCH", "LATIN")
MIN_SHARE = 0.1


def name_languages(page: Page) -> Page:
    """ISO 639-1 codes with their share of the page's letters, largest first; shares below a tenth are dropped.

    Lines are judged three together: a single line of a table says too little.
    """
    lines = [line.text for line in page.lines if sum(character.isalpha() for character in line.text) >= 3]
    shares: dict[str, int] = {}
    for start in range(0, len(lines), 3):
        text = " ".join(lines[start : start + 3])
        found = _detector().detect_language_of(text)
        if found is not None:
            code = found.iso_code_639_1.name.lower()
            shares[code] = shares.get(code, 0) + len(text)
    total = sum(shares.values())
    languages = [(code, round(length / total, 3)) for code, length in shares.items() if length / total >= MIN_SHARE]
    return replace(page, languages=tuple(sorted(languages, key=lambda item: -item[1])))


@lru_cache(maxsize=1)
def _detector() -> Any:
    from lingua import Language, LanguageDetectorBuilder

    languages = [getattr(Language, name) for name in LANGUAGES]
    return LanguageDetectorBuilder.from_languages(*languages).with_low_accuracy_mode().build()
