"""Reading the text index of a registry: the ports of `ras.matching.postings` on its tables, for one query each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ioi_dagster.adapters.sql.listed import Listed
from ioi_dagster.adapters.sql.search_tables import Stage, entry, latest, run, state
from ioi_dagster.ras.matching.postings import Spread, units_of, unpacked

AT_ONCE = 5_000
"""Values of one statement."""

_size = sa.select(state.c.entries)
_FRESH_OR_HEAD = (run.c.stage == int(Stage.FRESH)) | (run.c.stage == int(Stage.HEAD))
_heads = Listed(sa.select(run.c.word, run.c.count, run.c.postings).where(_FRESH_OR_HEAD), run.c.word)
_latest = Listed(sa.select(latest.c.word, latest.c.posting), latest.c.word)
_rests = Listed(
    sa.select(run.c.word, sa.func.substr(run.c.postings, 1, sa.bindparam("bytes"))).where(
        run.c.stage == int(Stage.REST)
    ),
    run.c.word,
)
_words = Listed(sa.select(entry.c.place, entry.c.words), entry.c.place)
_ids = Listed(sa.select(entry.c.place, entry.c.id), entry.c.place)
_numbers = Listed(sa.select(entry.c.place, entry.c.number), entry.c.place)
_by_id = Listed(sa.select(entry.c.place), entry.c.id)
_by_number = Listed(sa.select(entry.c.place), entry.c.number)


@dataclass(slots=True)
class _Found:
    """Of one term, before the rests of its old runs are read."""

    postings: list[int] = field(default_factory=list)
    count: int = 0


class SqlPostings:
    """What the connection's transaction sees."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._size = connection.execute(_size).scalar() or 0
        self._found: dict[int, _Found] = {}

    def __len__(self) -> int:
        return self._size

    def spreads(self, terms: Collection[int]) -> Mapping[int, Spread]:
        found: dict[int, _Found] = {}
        if terms:
            for word, count, data in _heads.rows(self._connection, terms):
                its = found.setdefault(word, _Found())
                its.postings += unpacked(data)
                its.count += count
            for word, posting in _latest.rows(self._connection, terms):
                its = found.setdefault(word, _Found())
                its.postings.append(posting)
                its.count += 1
        self._found = found
        return {word: Spread(its.count, units_of(min(its.postings))) for word, its in found.items()}

    def heaviest(self, limits: Mapping[int, int]) -> Mapping[int, list[int]]:
        read = {word: self._found[word].postings for word in limits}
        more = {word: limit for word, limit in limits.items() if len(read[word]) < min(limit, self._found[word].count)}
        if more:
            read |= {word: list(read[word]) for word in more}
            for word, data in _rests.rows(self._connection, more, bytes=8 * max(more.values())):
                read[word] += unpacked(data)
        return {
            word: sorted(read[word])[:limit] if len(read[word]) > limit else read[word]
            for word, limit in limits.items()
        }

    def words(self, places: Collection[int]) -> Mapping[int, Any]:
        return {place: unpacked(data) for place, data in _words.rows(self._connection, places)}

    def ids(self, places: Collection[int]) -> Mapping[int, str]:
        return dict(_ids.rows(self._connection, places))


class SqlAmong:
    """The entries of these ids, or those of the records whose numbers are selected."""

    def __init__(self, connection: sa.Connection, among: Collection[str] | sa.Select[Any]) -> None:
        self._connection = connection
        self._numbers = among if isinstance(among, sa.Select) else None
        self._ids = frozenset() if isinstance(among, sa.Select) else frozenset(among)

    def few(self, limit: int) -> list[int] | None:
        if self._numbers is None:
            if len(self._ids) > limit:
                return None
            found = _by_id.rows(self._connection, self._ids)
        else:
            numbers = self._connection.execute(self._numbers.limit(limit + 1)).scalars().all()
            if len(numbers) > limit:
                return None
            found = _by_number.rows(self._connection, numbers)
        places = [row[0] for row in found]
        return places if len(places) <= limit else None

    def left(self, places: Collection[int]) -> list[int]:
        if self._numbers is None:
            return [place for place, id in _ids.rows(self._connection, places) if id in self._ids]
        number_of = dict(_numbers.rows(self._connection, places))
        (column,) = self._numbers.selected_columns
        some = self._numbers.where(column.in_(sa.bindparam("numbers", expanding=True)))
        left = {row[0] for row in _each(self._connection, some, "numbers", set(number_of.values()))}
        return [place for place, number in number_of.items() if number in left]


def _each(connection: sa.Connection, statement: Any, name: str, values: Collection[Any]) -> list[Any]:
    its = list(values)
    return [
        row
        for at in range(0, len(its), AT_ONCE)
        for row in connection.execute(statement, {name: its[at : at + AT_ONCE]})
    ]
