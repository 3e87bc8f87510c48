"""Whatever entries come and go, an index answers as one that was made of what is left."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.ras.matching import ranking as its
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.matching.index import CapabilityIndex
from ioi_dagster.ras.matching.words import MAX_TEXT

WORDS = (
    "rain",
    "image",
    "picture",
    "photo",
    "speech",
    "table",
    "read",
    "write",
    "天",
    "Straße",
    "x1",
    "sets",
    "movie",
    "film",
)
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
entries = st.builds(
    Entry,
    id=st.sampled_from([f"cap-{number}" for number in range(12)]),
    name=texts,
    description=texts,
    tags=st.lists(texts, max_size=2).map(tuple),
    examples=st.lists(texts, max_size=3).map(tuple),
)
catalogues = st.lists(entries, max_size=12, unique_by=lambda entry: entry.id)


@pytest.fixture(autouse=True, params=[5, 100_000], ids=["budget of 5", "no budget"])
def budget(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(its, "BUDGET", request.param)


@settings(max_examples=60, deadline=None)
@given(catalogue=catalogues, order=st.randoms(use_true_random=False), query=texts, k=st.integers(1, 12))
def test_the_order_in_which_entries_came_changes_nothing(catalogue, order, query, k) -> None:
    shuffled = list(catalogue)
    order.shuffle(shuffled)
    assert CapabilityIndex(shuffled).rank(query, k) == CapabilityIndex(catalogue).rank(query, k)


@settings(max_examples=60, deadline=None)
@given(catalogue=catalogues, gone=st.lists(entries, max_size=12), query=texts)
def test_what_came_and_went_changes_nothing(catalogue, gone, query) -> None:
    index = CapabilityIndex(gone)
    for entry in catalogue:
        index.add(entry)
    for id in {entry.id for entry in gone} - {entry.id for entry in catalogue}:
        index.remove(id)
    fresh = CapabilityIndex(catalogue)
    assert (len(index), index.different_words, index.rank(query, 12)) == (
        len(fresh),
        fresh.different_words,
        fresh.rank(query, 12),
    )


@settings(max_examples=60, deadline=None)
@given(catalogue=catalogues, query=texts, k=st.integers(1, 12))
def test_answers_are_in_order_and_fewer_are_the_first_of_more(catalogue, query, k) -> None:
    index = CapabilityIndex(catalogue)
    found = index.rank(query, 12)
    assert found == sorted(found, key=lambda match: (-match.score, match.id))
    assert all(match.score > 0 and 0 <= match.fit <= 1 for match in found)
    assert [match.id for match in index.rank(query, k)] == [match.id for match in found[:k]]


@settings(max_examples=60, deadline=None)
@given(catalogue=catalogues, query=texts, among=st.sets(st.sampled_from([f"cap-{number}" for number in range(14)])))
def test_filters_take_entries_away_and_nothing_else(catalogue, query, among) -> None:
    index = CapabilityIndex(catalogue)
    left = [match.id for match in index.rank(query, 12) if match.id in among]
    found = [match.id for match in index.rank(query, 12, among)]
    assert [id for id in found if id in left] == left
    assert set(found) <= among
    if its.BUDGET > 5:
        assert found == left


@settings(max_examples=60, deadline=None)
@given(name=st.text(), query=st.text(), times=st.sampled_from([1, MAX_TEXT]))
def test_any_text_may_be_indexed_and_asked(name, query, times) -> None:
    index = CapabilityIndex(
        [Entry("any", name, name, (name,), {name: {"description": name}}, {}, (name,)), Entry("none", "")]
    )
    assert {match.id for match in index.rank(query * times, 5)} <= {"any"}
    index.remove("any")
    assert (index.different_words, index.rank(name, 5)) == (0, [])
