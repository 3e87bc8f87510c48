"""`index.sqlite`: every page's result, and a full-text index (SQLite FTS5) over the lines of the accepted ones."""

from __future__ import annotations

import errno
import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from definitions.documents.folder import written_whole
from definitions.documents.results import Pile, result_from
from ioi_dagster.errors import BadInputError

NAME = "index.sqlite"


@dataclass(frozen=True, slots=True)
class Hit:
    """A line that matches: `snippet` has the words between » and «."""

    page: str
    line: int
    snippet: str
    text: str


def write_index(folder: Path, pile: Pile) -> Path:
    """Write the whole index beside the old one and swap: readers see the old or the new, never half of one."""
    with written_whole(folder / NAME) as temporary:
        try:
            _write(temporary, pile)
        except sqlite3.OperationalError as error:  # it says no more than "disk is full" or "disk I/O error"
            raise OSError(errno.EIO, str(error)) from error
    return folder / NAME


def _write(path: Path, pile: Pile) -> None:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute(
            "CREATE TABLE page (page TEXT PRIMARY KEY, status TEXT NOT NULL, result TEXT NOT NULL, thumbnail BLOB)"
        )
        connection.execute(
            "CREATE VIRTUAL TABLE line USING fts5(text, page UNINDEXED, number UNINDEXED, "
            "tokenize='porter unicode61 remove_diacritics 2')"
        )
        connection.executemany(
            "INSERT INTO page VALUES (?, ?, ?, ?)",
            [
                (result.page, result.status, json.dumps(asdict(result)), pile.thumbnails.get(result.page))
                for result in pile.results
            ],
        )
        connection.executemany(
            "INSERT INTO line VALUES (?, ?, ?)",
            [
                (text, result.page, number)
                for result in pile.results
                if result.status == "indexed"
                for number, text in enumerate(result.lines, start=1)
            ],
        )


def read_pile(folder: Path) -> Pile:
    """What earlier runs left; empty when there is no index yet."""
    path = folder / NAME
    if not path.exists():
        return Pile((), {})
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT page, result, thumbnail FROM page").fetchall()
        results = tuple(result_from(json.loads(text)) for _, text, _ in rows)
        return Pile(results, {page: picture for page, _, picture in rows if picture})
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"the existing index cannot be read: {error}", where=str(path), todo="move it away and run over all pages"
        ) from error


def find(folder: Path, words: str, limit: int = 50) -> list[Hit]:
    """Lines with all of `words`, best first. Raises `BadInputError` when there is no index."""
    path = folder / NAME
    if not path.exists():
        raise BadInputError("there is no index here", where=str(path), todo="run `ioi run documents` first")
    terms = [f'"{word}"' for word in words.replace('"', " ").split()]
    if not terms:
        return []
    query = (
        "SELECT page, number, snippet(line, 0, '»', '«', '…', 24), text FROM line WHERE line MATCH ? "
        "ORDER BY rank LIMIT ?"
    )
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            return [Hit(*row) for row in connection.execute(query, (" ".join(terms), limit))]
    except sqlite3.Error as error:
        raise BadInputError(f"the index cannot be searched: {error}", where=str(path)) from error
