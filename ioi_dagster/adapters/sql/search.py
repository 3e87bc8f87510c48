"""The text index of a registry in its database: SQLite or PostgreSQL, by SQLAlchemy Core, in the transaction of the records.

An entry is a row with its words, at a place that counts up. Postings lie in three stages, so that a registration writes few pages
and a query reads few rows: those of the latest places, up to `RUN`, are rows; a full run of them is one row a word; `FRESH_RUNS`
such runs become an old one, which has two rows a word, its heaviest postings and the rest. The put that fills a stage hands it
on. What a drop takes away goes from all of them at once.
(After the logarithmic merging of Lester, Moffat, Zobel: Efficient online index construction for text databases, 2008, with two
levels.)

Writers go one after the other: each first locks the row of `search_state`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ioi_dagster.adapters.sql.inserting import insert_rows
from ioi_dagster.adapters.sql.search_reading import AT_ONCE, SqlAmong, SqlPostings
from ioi_dagster.adapters.sql.search_tables import (
    FRESH_RUNS,
    HEAD,
    RUN,
    Stage,
    entry,
    fresh_run,
    latest,
    old_run,
    run,
    state,
)
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.matching.entry import Entry, word_weights
from ioi_dagster.ras.matching.postings import MAX_PLACES, STEPS, kept_words, packed, posting, unpacked
from ioi_dagster.ras.matching.ranking import Match, ranked

Items = Sequence[tuple[int, tuple[Entry, ...]]]
_Row = tuple[int, int, int, int, bytes]
"""Of `run`."""


class SqlTextIndex:
    """Holds nothing itself: all is in the database, in `search_tables.tables`, which must be there. Thread-safe."""

    def put_all(self, connection: sa.Connection, items: Items) -> None:
        """The entries of records, by the records' numbers, in place of those that they had. Many at once cost far less than each
        alone. Raises `BadInputError`, with nothing written, where an id is given twice or is another record's."""
        numbers = {number for number, _ in items}
        ids = [its.id for _, entries in items for its in entries]
        there = self._there(connection, numbers, ids)
        _refuse_doubles(ids, [id for id, number in there.items() if number not in numbers])
        place = self._locked(connection)
        if there:
            self._drop(connection, set(there.values()), place)
        if not ids:
            return
        if place + len(ids) >= MAX_PLACES:
            raise BadInputError(
                f"the text index has given all its {MAX_PLACES} places",
                where="registry",
                todo="make it anew, as `ioi ras verify` says",
            )
        waiting: dict[int, list[int]] = defaultdict(list)
        rows: list[tuple[Any, ...]] = []
        for number, its in ((number, its) for number, entries in items for its in entries):
            words = kept_words(word_weights(its))
            rows.append((place, its.id, number, packed(words)))
            for word in words:
                waiting[word >> 16].append(posting(place, word & STEPS))
            place += 1
            if place % RUN == 0:
                self._seal(connection, place, waiting)
                waiting = defaultdict(list)
        insert_rows(connection, entry, ("place", "id", "number", "words"), rows)
        values = [(word, its) for word, found in waiting.items() for its in found]
        insert_rows(connection, latest, ("word", "posting"), values)
        connection.execute(sa.update(state).values(next=place, entries=state.c.entries + len(rows)))

    def drop(self, connection: sa.Connection, number: int) -> int:
        """All entries of the record; how many there were."""
        return self._drop(connection, {number}, self._locked(connection))

    def rank(
        self, connection: sa.Connection, query: str, k: int, among: Collection[str] | sa.Select[Any] | None = None
    ) -> list[Match]:
        """As `ranking.ranked`. `among`: ids that may be given, or a select of the numbers of the records whose entries may be
        (None: all)."""
        return ranked(SqlPostings(connection), query, k, None if among is None else SqlAmong(connection, among))

    def clear(self, connection: sa.Connection) -> None:
        for table in (entry, latest, run, state):
            connection.execute(sa.delete(table))

    def differences(self, connection: sa.Connection, records: Iterable[tuple[int, tuple[Entry, ...]]]) -> Iterator[str]:
        """A line on each difference from an index made anew of `records`: entries that are missing, are too many or have other
        words, and where postings do not agree with entries. Reads all of the index, and keeps a hash of each entry."""
        there = {
            row.id: (row.number, hash(row.words))
            for row in connection.execute(sa.select(entry.c.id, entry.c.number, entry.c.words))
        }
        for number, its in ((number, its) for number, entries in records for its in entries):
            found = there.pop(its.id, None)
            if found is None:
                yield f"{its.id} is missing"
            elif found != (number, hash(packed(kept_words(word_weights(its))))):
                yield f"{its.id} has other words"
        yield from (f"{id} is too many" for id in sorted(there))
        if _sum_of_entries(connection) != _sum_of_postings(connection):
            yield "postings are not those of the entries"

    def _there(self, connection: sa.Connection, numbers: Collection[int], ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for column, values in ((entry.c.number, sorted(numbers)), (entry.c.id, ids)):
            for some in _portions(values):
                its = connection.execute(sa.select(entry.c.id, entry.c.number).where(column.in_(some)))
                found |= {row.id: row.number for row in its}
        return found

    def _locked(self, connection: sa.Connection) -> int:
        """The next place. No other writer goes on until this transaction ends."""
        insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name]
        own = insert(state).values(one=1, next=0, entries=0)
        connection.execute(own.on_conflict_do_update(index_elements=["one"], set_={"next": state.c.next}))
        return connection.execute(sa.select(state.c.next)).scalar_one()

    def _drop(self, connection: sa.Connection, numbers: Collection[int], next_place: int) -> int:
        gone: list[Any] = []
        for some in _portions(sorted(numbers)):
            wanted = sa.select(entry.c.place, entry.c.words).where(entry.c.number.in_(some))
            gone += connection.execute(wanted)
            connection.execute(sa.delete(entry).where(entry.c.number.in_(some)))
        by_run: dict[tuple[Stage, int] | None, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for place, words in gone:
            its_run = _run_of(place, next_place)
            for word in unpacked(words):
                by_run[its_run][word >> 16].add(posting(place, word & STEPS))
        for its_run, words in by_run.items():
            if its_run is None:
                values = [{"w": word, "p": its} for word, found in words.items() for its in found]
                where = (latest.c.word == sa.bindparam("w")) & (latest.c.posting == sa.bindparam("p"))
                connection.execute(sa.delete(latest).where(where), values)
            else:
                self._take_out(connection, *its_run, words)
        connection.execute(sa.update(state).values(entries=state.c.entries - len(gone)))
        return len(gone)

    def _take_out(self, connection: sa.Connection, stage: Stage, its_run: int, words: Mapping[int, set[int]]) -> None:
        stages = [Stage.FRESH] if stage == Stage.FRESH else [Stage.HEAD, Stage.REST]
        left: dict[int, list[int]] = defaultdict(list)
        for some in _portions(sorted(words)):
            its = run.c.stage.in_(stages) & run.c.word.in_(some) & (run.c.run == its_run)
            for word, data in connection.execute(sa.select(run.c.word, run.c.postings).where(its)):
                left[word] += (one for one in unpacked(data) if one not in words[word])
            connection.execute(sa.delete(run).where(its))
        _write(connection, _fresh_rows(left, its_run) if stage == Stage.FRESH else _old_rows(left, its_run))

    def _seal(self, connection: sa.Connection, place: int, waiting: Mapping[int, list[int]]) -> None:
        """The latest places up to `place` become a run, and the fresh runs, where they are enough, an old one."""
        found = defaultdict(list, {word: list(its) for word, its in waiting.items()})
        for word, its in connection.execute(sa.select(latest.c.word, latest.c.posting)):
            found[word].append(its)
        connection.execute(sa.delete(latest))
        _write(connection, _fresh_rows(found, fresh_run(place - 1)))
        if place % (RUN * FRESH_RUNS):
            return
        wanted = sa.select(run.c.word, run.c.postings).where(run.c.stage == Stage.FRESH).order_by(run.c.word)
        merged = (
            (word, [its for _, data in rows for its in unpacked(data)])
            for word, rows in itertools.groupby(connection.execute(wanted).all(), key=lambda row: row[0])
        )
        connection.execute(sa.delete(run).where(run.c.stage == Stage.FRESH))
        _write(connection, _old_rows(dict(merged), old_run(place - 1)))


def _run_of(place: int, next_place: int) -> tuple[Stage, int] | None:
    """Where the postings of a place are: an old run counts as its head. None: with the latest."""
    if fresh_run(place) == fresh_run(next_place):
        return None
    if old_run(place) == old_run(next_place):
        return Stage.FRESH, fresh_run(place)
    return Stage.HEAD, old_run(place)


def _fresh_rows(postings: Mapping[int, list[int]], its_run: int) -> list[_Row]:
    return [_row(Stage.FRESH, word, its_run, len(its), sorted(its)) for word, its in sorted(postings.items()) if its]


def _old_rows(postings: Mapping[int, list[int]], its_run: int) -> list[_Row]:
    ordered = [(word, sorted(its)) for word, its in sorted(postings.items()) if its]
    heads = [_row(Stage.HEAD, word, its_run, len(its), its[:HEAD]) for word, its in ordered]
    return heads + [_row(Stage.REST, word, its_run, len(its) - HEAD, its[HEAD:]) for word, its in ordered if its[HEAD:]]


def _row(stage: Stage, word: int, its_run: int, count: int, postings: list[int]) -> _Row:
    return int(stage), word, its_run, count, packed(postings)


def _write(connection: sa.Connection, rows: list[_Row]) -> None:
    insert_rows(connection, run, ("stage", "word", "run", "count", "postings"), rows)


def _refuse_doubles(ids: Sequence[str], others: Sequence[str]) -> None:
    twice = [id for id, its in itertools.groupby(sorted(ids)) if len(list(its)) > 1]
    if twice or others:
        id = (twice or sorted(others))[0]
        raise BadInputError(
            f"the id {id!r} is " + ("given twice" if twice else "another record's"),
            where="registry's text index",
            todo="give each entry an id of its own",
        )


def _portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(values), AT_ONCE):
        yield values[at : at + AT_ONCE]


def _sum_of_entries(connection: sa.Connection) -> tuple[int, int, int]:
    """The number of entries, that of their postings, and a sum over these in which each counts by where it is."""
    entries = count = total = 0
    for place, words in connection.execute(sa.select(entry.c.place, entry.c.words)):
        entries += 1
        its = unpacked(words)
        count += len(its)
        total += sum(hash((word >> 16, posting(place, word & STEPS))) for word in its)
    return entries, count, total


def _sum_of_postings(connection: sa.Connection) -> tuple[int, int, int]:
    entries = connection.execute(sa.select(state.c.entries)).scalar() or 0
    count = total = 0
    for word, its in connection.execute(sa.select(latest.c.word, latest.c.posting)):
        count, total = count + 1, total + hash((word, its))
    for word, data in connection.execute(sa.select(run.c.word, run.c.postings)):
        found = unpacked(data)
        count, total = count + len(found), total + sum(hash((word, its)) for its in found)
    return entries, count, total
