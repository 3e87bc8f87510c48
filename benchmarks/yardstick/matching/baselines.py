"""SQLite's full text search, as one would use it for a catalogue: any word, Porter's stems, its own ranking."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

STOP = frozenset("a an and are as at be by can could do for from give have how i in is it me my of on or please some that the this to want what which with you your".split())


def split_names(text: str) -> str:
    """getHealthWorkforce, list_calendar-events -> words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\-./:]+", " ", text)


def document(cap: Row) -> str:
    inputs = cap["inputs"] if isinstance(cap["inputs"], dict) else {}
    parts = [split_names(cap["name"]), cap["description"], *cap["tags"], *map(split_names, inputs), *cap["examples"]]
    return " ".join(str(part) for part in parts)


class Once:
    """Builds an index for a capability list once and keeps only the latest."""

    def __init__(self, build: Callable[[list[Row]], Any]) -> None:
        self.build, self.owner, self.index = build, None, None

    def __call__(self, caps: list[Row]) -> Any:
        if self.owner is not caps:
            self.owner, self.index = caps, self.build(caps)
        return self.index


def _fts5(caps: list[Row]) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.execute("create virtual table cap using fts5(id unindexed, body, tokenize='porter unicode61')")
    db.executemany("insert into cap values (?, ?)", [(cap["id"], document(cap)) for cap in caps])
    return db


_fts5_index = Once(_fts5)


def fts5(caps: list[Row], query: str, k: int) -> list[str]:
    db = _fts5_index(caps)
    terms = [w for w in re.findall(r"\w+", query.lower()) if w not in STOP]
    match = " OR ".join(json.dumps(w, ensure_ascii=False) for w in dict.fromkeys(terms))
    if not match:
        return []
    return [row[0] for row in db.execute("select id from cap where cap match ? order by rank limit ?", (match, k))]
