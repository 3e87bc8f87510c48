"""Words of a text as the index compares them: in small letters, without filler, cut to their stems."""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import lru_cache
from importlib.resources import files

import snowballstemmer

MAX_TEXT = 20_000
"""Characters of one text that are looked at: what comes from outside may be of any length."""

_NAMES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\-./:]+")
_WORDS = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""Chinese and Japanese set no spaces between words: each sign is one."""


def split_names(text: str) -> str:
    """`getHealthWorkforce`, `list_calendar-events` as words."""
    return _NAMES.sub(" ", text[:MAX_TEXT])


def terms(text: str) -> list[str]:
    """Stems in the order of the text, by Snowball's stemmer for English; words of other languages stay much as they are."""
    plain = unicodedata.normalize("NFKC", text[:MAX_TEXT]).casefold()
    return [stem(word) for word in _WORDS.findall(plain) if word not in _STOP]


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Words of more than 40 characters, as keys and hashes are, are cut there."""
    with _ONE_AT_A_TIME:
        return _STEMMER.stemWord(word) if len(word) <= 40 else word[:40]


_ONE_AT_A_TIME = threading.Lock()
"""The stemmer keeps the word that it works on in itself."""
_STEMMER = snowballstemmer.stemmer("english")


def lines(name: str) -> list[str]:
    """Of a file beside this one, without its remarks."""
    text = (files("ioi_dagster.ras.matching") / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


_STOP = frozenset(word for line in lines("stop.txt") for word in line.split())
FAINT = frozenset(stem(word) for line in lines("filler.txt") for word in line.split())
"""Stems of words that say how a thing is wanted rather than what."""
