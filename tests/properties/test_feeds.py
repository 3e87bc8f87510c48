"""What is read of feeds: nothing but what their owners have signed, byte for byte, whatever comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ioi_dagster.adapters.sql.feed_tables import define
from ioi_dagster.adapters.sql.feeds import SqlFeeds
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.content import record_item
from ioi_dagster.ras.feeds.entry import Op, WireEntry, hash_of
from ioi_dagster.ras.feeds.head import Head, read_head
from ioi_dagster.ras.feeds.memory import MemoryFeeds
from ioi_dagster.ras.feeds.names import Feed, read_feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.proof import Proof, proves
from ioi_dagster.ras.feeds.reader import Position, Taken, read_entries
from ioi_dagster.ras.feeds.roster import public_text
from ioi_dagster.ras.feeds.text import read_text
from ioi_dagster.signing import Signed, TrustedKeys, canonical
from tests.feeds import EPOCH, key_of, record

A = "a.example"
FEED = Feed(A)
TRUSTED = TrustedKeys({key_of(A).key_id: key_of(A).public_bytes})
START = Position(FEED, root=public_text(key_of(A, -1)))
TEXT = st.text(st.sampled_from('az0"\\\n\x1f\x7fé\u2028\U0001f600'), max_size=4)
# Larger fractions are written as integers that are not read again: they are refused.
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def written(count: int = 4, store: MemoryFeeds | None = None) -> tuple[MemoryFeeds, list[WireEntry], Signed | None]:
    store = store or MemoryFeeds()
    Owner(key_of(A), store, key_of(A, -1)).state([record(A, f"r{number}") for number in range(count)], EPOCH)
    page = store.page(FEED, 0, 0, 100)
    return store, list(page.entries), page.head


@given(st.dictionaries(TEXT, JSON, max_size=3), st.booleans())
@settings(max_examples=100, deadline=None)
def test_canonical_bytes_are_those_of_the_slow_way(value: dict[str, Any], spaced: bool) -> None:
    plain = canonical(value)
    raw = json.dumps(value, indent=1 if spaced else None, ensure_ascii=spaced).encode()
    assert read_text(plain)[1] == plain == canonical(json.loads(plain))
    assert read_text(raw)[1] == canonical(json.loads(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"{" * 100,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[]",
        b"1",
        b"{}x",
        b'{"a":NaN}',
        b'{"a":9007199254740993}',
        b" " * 300_000,
    ],
)
def test_what_is_no_bounded_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadInputError):
        read_text(raw)


def test_an_entry_is_hashed_and_signed_as_canonical_json() -> None:
    store, wires, _ = written(1)
    signed = store.entry_at(FEED, 1, 1)
    assert signed is not None
    assert TRUSTED.verify(signed) == A
    whole = {"body": signed.body, "key_id": signed.key_id, "signature": signed.signature}
    from ioi_dagster.signing import digest

    assert hash_of(signed) == digest(whole) == wires[1].prev


CHANGES: dict[str, Any] = {
    "epoch": 2,
    "seq": 9,
    "prev": "sha256:" + 64 * "1",
    "hlc": 1,
    "op": Op.TOMBSTONE,
    "digest": "sha256:" + 64 * "2",
    "body": msgspec.Raw(b'{"schema":"ioi.tombstone/1"}'),
    "key_id": A + "#0123456789abcdef",
    "signature": 86 * "A" + "==",
}


@given(st.integers(0, 4), st.sampled_from(sorted(CHANGES)))
@settings(max_examples=30, deadline=None)
def test_nothing_of_a_page_is_taken_where_one_field_is_another(number: int, name: str) -> None:
    _, wires, _ = written()
    wires[number] = replace(wires[number], **{name: CHANGES[name]})
    assert isinstance(read_entries(START, wires), Refusal)


@given(st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_another_order_changes_nothing_or_is_refused(order: Sequence[int]) -> None:
    _, wires, _ = written()
    read = read_entries(START, [wires[number] for number in order])
    assert isinstance(read, Taken if list(order) == sorted(order) else Refusal)
    if isinstance(read, Taken):
        again = read_entries(read.at, wires)
        assert isinstance(again, Taken)
        assert (again.entries, again.at) == ((), read.at)


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    store, wires, head = written()
    signed = store.entry_at(FEED, 1, 5)
    assert head is not None
    assert signed is not None
    assert isinstance(read_head(head, TRUSTED, EPOCH), Head)
    assert isinstance(read_head(signed, TRUSTED, EPOCH), Refusal)
    assert isinstance(read_head(record(A, "r"), TRUSTED, EPOCH), Refusal)
    assert isinstance(read_entries(START, [replace(wires[0], signature=head.signature)]), Refusal)


def test_two_things_at_one_place_are_a_proof_and_one_is_none() -> None:
    store, _, head = written(2)
    twin, _, other = written(3)
    first, second = store.entry_at(FEED, 1, 3), twin.entry_at(FEED, 1, 3)
    assert first is not None
    assert second is not None
    assert head is not None
    assert other is not None
    assert proves(Proof(first, second), TRUSTED) == FEED
    assert proves(Proof(head, second), TRUSTED) == FEED
    assert proves(Proof(first, first), TRUSTED) is None
    assert proves(Proof(head, other), TRUSTED) is None  # of other places
    assert proves(Proof(first, replace(second, signature=86 * "A" + "==")), TRUSTED) is None


@pytest.mark.parametrize("audience", ["", "Public", "partner:", "partner:A", "partner:a.example#", "local "])
def test_what_is_no_audience_is_refused(audience: str) -> None:
    with pytest.raises(BadInputError):
        read_feed(A, audience)


class Kept(RuleBasedStateMachine):
    """The database and memory, told the same: the owner's, and those of a reader that pulls from it."""

    def __init__(self) -> None:
        super().__init__()
        meta = sa.MetaData()
        tables = define(meta)
        engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        meta.create_all(engine)
        self.ours, self.theirs = MemoryFeeds(), SqlFeeds(engine, tables)
        self.read = MemoryFeeds()
        self.now = EPOCH

    @property
    def owner(self) -> Owner:
        self.now += 1
        return Owner(key_of(A), self.ours, key_of(A, -1))

    @rule(names=st.sets(st.sampled_from("pqrs"), min_size=1), audience=st.sampled_from(["public", "partner:b.example"]))
    def state(self, names: set[str], audience: str) -> None:
        self.owner.state([record(A, name, audience=audience) for name in sorted(names)], self.now)

    @rule(names=st.sets(st.sampled_from("pqrs"), min_size=1))
    def withdraw(self, names: set[str]) -> None:
        self.owner.withdraw([record_item(f"urn:ioi:{A}:block:{name}", "1") for name in sorted(names)], self.now)

    @rule(name=st.sampled_from("pq"))
    def point(self, name: str) -> None:
        self.owner.point(f"urn:ioi:{A}:block:{name}", "production", {"version": "1"}, self.now)

    @rule()
    def snapshot(self) -> None:
        self.owner.snapshot(FEED, self.now)

    @rule()
    def new_epoch(self) -> None:
        if any(kept.at.feed == FEED and kept.at.seq for kept in self.ours.kept()):
            self.owner.new_epoch(FEED, self.now)

    @rule(limit=st.integers(1, 4), times=st.integers(1, 3))
    def pull(self, limit: int, times: int) -> None:
        for feed in (FEED, Feed(A, "partner:b.example")):
            for _ in range(times):
                at = next(
                    (kept.at for kept in self.read.kept() if kept.at.feed == feed and kept.at.root),
                    replace(START, feed=feed),
                )
                page = self.ours.page(feed, *at.place, limit)
                taken = read_entries(at, page.entries, page.roster)
                assert isinstance(taken, Taken)
                assert not taken.left_out
                if taken.entries:
                    assert self.read.keep([taken])
                    assert self.theirs.keep([taken])
                    assert not self.theirs.keep([taken])

    @invariant()
    def agree(self) -> None:
        for feed in (FEED, Feed(A, "partner:b.example")):
            assert self.theirs.stated(feed) == self.read.stated(feed)
            assert self.theirs.oldest_tombstone(feed) == self.read.oldest_tombstone(feed)
            for place in ((0, 0), (1, 2), (1, 5), (2, 1)):
                assert self.theirs.page(feed, *place, 3) == self.read.page(feed, *place, 3)
            ours = next((kept.at for kept in self.ours.kept() if kept.at.feed == feed), Position(feed))
            read = next((kept.at for kept in self.read.kept() if kept.at.feed == feed), Position(feed))
            if read.place == ours.place:
                assert [(one.item, one.body) for one in self.ours.stated(feed)] == [
                    (one.item, one.body) for one in self.read.stated(feed)
                ]


Kept.TestCase.settings = settings(max_examples=10, stateful_step_count=15, deadline=None)
test_the_database_keeps_what_memory_keeps = Kept.TestCase
