"""A registry's text index keeps its promises on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ioi_dagster.adapters.sql import search
from ioi_dagster.adapters.sql.search import SqlTextIndex
from ioi_dagster.adapters.sql.search_tables import entry, latest, run, tables
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.matching.index import CapabilityIndex
from tests.contract.postgres import new_database, server

RAIN, OCR = Entry("rain", "rain radar", "Rain of the next hour."), Entry("ocr", "page reader", "Reads scanned pages.")
CATALOGUE = {
    number: (Entry(f"of-{number}", f"model {number % 7}", f"reads {number % 11} pages"),) for number in range(40)
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    with server() as socket:
        yield socket


@pytest.fixture(params=["sqlite", "postgresql"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Connection]:
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path}/index.db"
    else:
        address = new_database(request.getfixturevalue("postgres"), f"search_{request.node.name}")
    engine = sa.create_engine(address)
    tables.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_it_answers_as_one_in_memory_after_runs_were_merged_and_entries_went(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RUN", 4)
    monkeypatch.setattr("ioi_dagster.adapters.sql.search_tables.RUN", 4)
    monkeypatch.setattr(search, "FRESH_RUNS", 2)
    monkeypatch.setattr("ioi_dagster.adapters.sql.search_tables.FRESH_RUNS", 2)
    index = SqlTextIndex()
    index.put_all(connection, list(CATALOGUE.items()))
    gone = {0, 9, 39}
    assert [index.drop(connection, number) for number in sorted(gone)] == [1, 1, 1]
    left = {number: its for number, its in CATALOGUE.items() if number not in gone}
    memory = CapabilityIndex(its for entries in left.values() for its in entries)
    few = sa.select(entry.c.number).where(entry.c.number < 12)
    for query in ("model 3 reads 5 pages", "pages", "nothing of it"):
        assert index.rank(connection, query, 40) == memory.rank(query, 40)
        assert index.rank(connection, query, 3, few) == memory.rank(query, 3, {f"of-{number}" for number in range(12)})
    assert list(index.differences(connection, left.items())) == []


def test_what_is_rolled_back_was_never_there(connection: sa.Connection) -> None:
    index = SqlTextIndex()
    index.put_all(connection, [(1, (RAIN,))])
    connection.commit()
    index.put_all(connection, [(1, (OCR,))])
    assert [match.id for match in index.rank(connection, "rain on scanned pages", 5)] == ["ocr"]
    connection.rollback()
    assert [match.id for match in index.rank(connection, "rain on scanned pages", 5)] == ["rain"]


def test_ids_that_are_anothers_or_given_twice_are_refused_and_nothing_is_written(connection: sa.Connection) -> None:
    index = SqlTextIndex()
    index.put_all(connection, [(1, (RAIN,))])
    with pytest.raises(BadInputError, match="'rain' is another record's"):
        index.put_all(connection, [(2, (OCR, RAIN))])
    with pytest.raises(BadInputError, match="'ocr' is given twice"):
        index.put_all(connection, [(2, (OCR,)), (3, (OCR,))])
    assert list(index.differences(connection, [(1, (RAIN,))])) == []


def test_differences_are_told(connection: sa.Connection) -> None:
    index = SqlTextIndex()
    index.put_all(connection, [(1, (RAIN,)), (2, (OCR,)), (3, ())])
    changed = Entry("rain", "rain")
    assert sorted(index.differences(connection, [(1, (changed,)), (4, (Entry("new", "new"),))])) == [
        "new is missing",
        "ocr is too many",
        "rain has other words",
    ]
    connection.execute(
        sa.delete(latest).where(latest.c.word == sa.select(sa.func.min(latest.c.word)).scalar_subquery())
    )
    assert list(index.differences(connection, [(1, (RAIN,)), (2, (OCR,))])) == ["postings are not those of the entries"]


def test_syntax_of_databases_is_words(connection: sa.Connection) -> None:
    index = SqlTextIndex()
    index.put_all(connection, [(1, (RAIN,))])
    for query in ("' OR 1=1 --", 'rain" NEAR *', "%", "\x00", "a:b AND (", "rain " * 200_000):
        assert {match.id for match in index.rank(connection, query, 5)} <= {"rain"}


def test_an_index_that_is_empty_or_was_emptied_finds_nothing(connection: sa.Connection) -> None:
    index = SqlTextIndex()
    assert (index.rank(connection, "rain", 5), index.drop(connection, 7)) == ([], 0)
    index.put_all(connection, [(1, (RAIN,))])
    index.put_all(connection, [(1, ())])
    assert index.rank(connection, "rain", 5) == []
    assert [
        connection.execute(sa.select(sa.func.count()).select_from(its)).scalar() for its in (entry, latest, run)
    ] == [0, 0, 0]
