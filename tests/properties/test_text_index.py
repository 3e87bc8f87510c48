"""A registry's text index in its database answers as one in memory does, whatever came and went."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.sql import search, search_tables
from ioi_dagster.adapters.sql.search import SqlTextIndex
from ioi_dagster.ras.matching import ranking
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.matching.index import CapabilityIndex

WORDS = ("rain", "image", "picture", "speech", "table", "read", "天", "x1", "movie", "film")
texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
puts = st.lists(
    st.tuples(st.integers(0, 9), st.lists(texts, max_size=3)), min_size=1, max_size=4, unique_by=lambda its: its[0]
)
changes = st.lists(puts | st.integers(0, 9), max_size=12)
record = sa.Table("record_of_test", sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True))


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few entries fill all stages, and candidates are cut off."""
    for module in (search, search_tables):
        monkeypatch.setattr(module, "RUN", 3)
        monkeypatch.setattr(module, "FRESH_RUNS", 2)
        monkeypatch.setattr(module, "HEAD", 2, raising=False)
    monkeypatch.setattr(ranking, "MAX_CANDIDATES", 3)


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://")
    search_tables.tables.create_all(engine)
    record.create(engine)
    yield engine
    engine.dispose()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=changes,
    query=texts,
    k=st.integers(1, 12),
    ids=st.none() | st.sets(st.tuples(st.integers(0, 9), st.integers(0, 2)).map(lambda its: f"{its[0]}.{its[1]}")),
    numbers=st.sets(st.integers(0, 9)),
)
def test_it_answers_as_one_in_memory(engine: sa.Engine, changes, query, k, ids, numbers) -> None:
    index, entries = SqlTextIndex(), {}
    with engine.connect() as connection:
        for change in changes:
            if isinstance(change, int):
                assert index.drop(connection, change) == len(entries.pop(change, ()))
            else:
                items = [
                    (number, tuple(Entry(f"{number}.{at}", text, text) for at, text in enumerate(its)))
                    for number, its in change
                ]
                index.put_all(connection, items)
                entries |= dict(items)
        memory = CapabilityIndex(its for found in entries.values() for its in found)
        assert index.rank(connection, query, k, ids) == memory.rank(query, k, ids)
        connection.execute(sa.insert(record), [{"number": number} for number in sorted(numbers)] or [{"number": 99}])
        of_numbers = [its.id for number in numbers for its in entries.get(number, ())]
        found = index.rank(connection, query, k, sa.select(record.c.number))
        assert found == memory.rank(query, k, of_numbers)
        assert list(index.differences(connection, entries.items())) == []
        connection.rollback()
