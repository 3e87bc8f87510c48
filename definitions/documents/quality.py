"""What a page's text looks like, as a row of figures that expectations are stated on.

A model that cannot read a script still answers, with confidence; what gives it away is that its words are no words.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from unicodedata import combining, normalize

from definitions.documents.values import Page

_VOWELS = "aeiouyæœøıə"
_HEAP = re.compile(rf"(.)\1\1|[^{_VOWELS}]{{5}}|[{_VOWELS}]{{4}}")
_WORD = re.compile(r"[^\W\d_]{3,}")

_FUNCTION_WORDS = """
the and for that with this from which not are was were his her you they have has had but all one may can will would
their there been when who into than them then its any each more other upon such only some these those out what she him
der die das und den dem des ein eine einer einem einen ist nicht auch mit von auf für als sich wird sind aus bei nach
über wie oder aber wenn noch nur durch vor zum zur war hat haben werden ich sie wir ihr man was dass
les des une dans est pour que qui pas sur par avec plus son ses sont ont aux cette mais comme tout nous vous ils elle
leur être fait sans entre deux même aussi bien peut ces où donc après sous
che non per una con del della dei delle alla sono dal dalla nel nella più come anche gli essere hanno questo quella
loro suo sua tra fra sul sulla era stato ogni tutti molto dove quando perché
que los las una por con para del como más pero sus está son entre cuando muy sin sobre también hasta hay donde quien
desde todo nos durante todos uno les otros fue ese esta este ser tiene ellos
que não uma com para dos das por mais como mas foi ele ela seu sua nos são está quando muito pelo pela até isso entre
depois sem mesmo aos seus quem nas esse eles você era ser sobre também
het een van dat niet zijn voor met aan ook maar als naar door bij nog wel dan uit deze over hij haar hun kan wordt
sed est non qui quae quod cum per atque enim etiam eius esse sunt hoc haec ille nec aut
"""


def look(page: Page) -> dict[str, Any]:
    """One row: `page`, `chars`, `letters`, `confidence`, `language`, `word_share`, `shape_share`, `script_share` (0..1).

    `word_share` is the part of the letters (in words of three or more) that belongs to known words of the languages
    that the model can read; `shape_share` the part of all letters that is in words of the shape that words of nearly
    all languages have, for names, lists and languages that are not known here; `script_share` the part of all letters
    that is of their script.
    """
    letters = [character for character in page.text if character.isalpha()]
    words = _WORD.findall(page.text)
    in_words = sum(len(word) for word in words)
    known = sum(len(word) for word in words if word.lower() in _lexicon())
    shaped = sum(len(word) for word in words if _word_shaped(word))
    return {
        "page": page.ref.id,
        "chars": len(page.text),
        "letters": len(letters),
        "confidence": round(page.confidence, 4),
        "language": page.languages[0][0] if page.languages else None,
        "word_share": round(known / in_words, 4) if in_words else 0.0,
        "shape_share": round(shaped / len(letters), 4) if letters else 0.0,
        "script_share": round(sum(map(_latin, letters)) / len(letters), 4) if letters else 0.0,
    }


def _word_shaped(word: str) -> bool:
    """Small or capitalised, with vowels among its letters, no letter thrice and no heap of consonants or of vowels.

    Capitals alone prove nothing: a script that cannot be read comes out as capitals, more often than not.
    """
    plain = "".join(c for c in normalize("NFD", word.lower()) if not combining(c))
    vowels = sum(letter in _VOWELS for letter in plain) / len(plain) if plain else 0.0
    small = word[1:].islower()
    return small and 0.2 <= vowels <= 0.75 and not _HEAP.search(plain)


def _latin(character: str) -> bool:
    return character.isascii() or "À" <= character <= "ɏ"


@lru_cache(maxsize=1)
def _lexicon() -> frozenset[str]:
    """Function words of the languages, and the English that Python's own help text uses (it ships with every Python)."""
    from pydoc_data.topics import topics

    counts: dict[str, int] = {}
    for text in topics.values():
        for word in re.findall(r"(?<![\w.])[a-z]{3,}(?![\w.(=])", text):
            counts[word] = counts.get(word, 0) + 1
    english = {word for word, count in counts.items() if count >= 3}
    return frozenset(english | set(_FUNCTION_WORDS.split()))
